"""make templates: writes example_workflows/*.json, runs each in a real ComfyUI, and makes a thumbnail of its pictures.

Names after `python -m templates` choose some of them.
"""

import json
import sys

from PIL import Image

from checkout import ROOT
from comfy_server import Server, running_server
from demo import pictures, run, strip

from .catalogue import TEMPLATES
from .graph import Graph

FOLDER = ROOT / "example_workflows"
SIDE = 512


def write(server: Server, name: str) -> dict:
    """Writes the template and returns it."""
    graph = Graph(server.request("/object_info"))
    TEMPLATES[name](graph)
    (FOLDER / f"{name}.json").write_text(json.dumps(graph.workflow(), indent=1) + "\n")
    return graph.workflow()


def thumbnail(server: Server) -> Image.Image:
    """Original pictures above the erased ones; of another template the pictures it has saved."""
    saved = server.base / "output"
    prefixes = sorted({file.name.rpartition("_")[0].rpartition("_")[0] for file in saved.glob("*.png")}, reverse=True)
    rows = [strip(pictures(saved, prefix)[:2]) for prefix in prefixes[:2]]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)))
    for index, row in enumerate(rows):
        sheet.paste(row, (0, index * row.height))
    return sheet.resize((SIDE, SIDE * sheet.height // sheet.width), Image.Resampling.LANCZOS)


def main() -> None:
    for name in sys.argv[1:] or TEMPLATES:
        print(name, flush=True)
        with running_server() as server:  # of its own: what another template has sampled would not be saved again
            run(server, write(server, name))
            thumbnail(server).save(FOLDER / f"{name}.jpg", quality=90)


if __name__ == "__main__":
    main()
