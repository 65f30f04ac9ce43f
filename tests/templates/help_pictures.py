"""Writes web/images, the pictures of the help pages, with a real ComfyUI and the small world.

Names after `python -m templates.help_pictures` choose some of them.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from checkout import ROOT
from comfy_server import running_server
from demo import pictures, run, strip

from .erasing import erase_in_one_region, erase_one_concept
from .graph import Graph
from .looking import see_where_a_concept_is, withhold_pictures_of_a_concept
from .parts import STYLES, UPPER, ask, draw, load
from .training import train_an_sae

FOLDER = ROOT / "web" / "images"
LABEL = 90


def steer(graph: Graph) -> None:
    checkpoint = load(graph)
    steered = graph.add(
        "SAEEraser_SteerConcept",
        (420, UPPER),
        (360, 300),
        model=checkpoint["MODEL"],
        sae=STYLES,
        sae__concept="neon",
    )
    asked = ask(graph, checkpoint, (0, 240), "a star in plain style")
    draw(graph, checkpoint, checkpoint, (840, 440), "Original", **asked)
    draw(graph, checkpoint, steered, (840, UPPER), "Steered", **asked)


def locate(graph: Graph) -> None:
    checkpoint = load(graph)
    things = (("star", "circle"), ("heart", "square"), ("tree", "house"), ("ring", "cross"))
    pairs = [f"a {one} in neon style | a {other} in neon style" for one, other in things]
    graph.add(
        "SAEEraser_LocateConcept",
        (420, UPPER),
        (360, 500),
        model=checkpoint["MODEL"],
        clip=checkpoint["CLIP"],
        pairs="\n".join(pairs),
        **{"name": "objects", "hookpoints": "attentions", "seeds": 2, "steps": 8, "cfg": 3.0},
        **{"width": 64, "height": 64, "combine": 1},
    )


def sheet(workflow: dict, base: Path) -> Image.Image:
    """A row of pictures for each node that saves, with its title."""
    nodes = [node for node in workflow["nodes"] if node["type"] == "SaveImage"]
    rows = [strip(pictures(base / "output", node["widgets_values"][0])) for node in nodes]
    height = rows[0].height
    picture = Image.new("RGB", (LABEL + rows[0].width, height * len(rows)), "white")
    pen = ImageDraw.Draw(picture)
    for index, (node, row) in enumerate(zip(nodes, rows, strict=True)):
        pen.text((4, height * index + height // 2), node["title"], "black", ImageFont.load_default(15), anchor="lm")
        picture.paste(row, (LABEL, height * index))
    return picture


def curves(workflow: dict, base: Path) -> Image.Image:
    """What Train SAE shows when it is done."""
    return Image.open(max((base / "temp").glob("*.png"), key=lambda path: path.stat().st_mtime))


def table(workflow: dict, base: Path) -> Image.Image:
    return Image.open(base / "output" / "sae_locate" / "objects.png")


PICTURES: dict[str, tuple[Callable, Callable]] = {
    "erase_concept": (erase_one_concept, sheet),
    "erase_mask": (erase_in_one_region, sheet),
    "steer_concept": (steer, sheet),
    "concept_heatmap": (see_where_a_concept_is, sheet),
    "concept_guard": (withhold_pictures_of_a_concept, sheet),
    "train_sae": (train_an_sae, curves),
    "locate_concept": (locate, table),
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or PICTURES:
        print(name, flush=True)
        write, show = PICTURES[name]
        with running_server() as server:
            graph = Graph(server.request("/object_info"))
            write(graph)
            run(server, graph.workflow())
            picture = show(graph.workflow(), server.base).convert("RGB")
        picture.save(FOLDER / f"{name}.jpg", quality=90, optimize=True)


if __name__ == "__main__":
    main()
