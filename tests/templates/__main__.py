"""make templates: writes example_workflows/*.json, runs each in a real ComfyUI, and makes a thumbnail of its pictures.

Names after `python -m templates` choose some of them. Those whose checkpoint is not here get a card instead.
"""

import json
import sys

from checkout import ROOT
from comfy_server import Server, running_server
from demo import run

from . import thumbnails
from .catalogue import TEMPLATES
from .checkpoints import missing_checkpoints
from .graph import Graph

FOLDER = ROOT / "example_workflows"


def write(server: Server, name: str) -> dict:
    """Writes the template and returns it."""
    graph = Graph(server.request("/object_info"))
    TEMPLATES[name](graph)
    (FOLDER / f"{name}.json").write_text(json.dumps(graph.workflow(), indent=1) + "\n")
    return graph.workflow()


def main() -> None:
    for name in sys.argv[1:] or TEMPLATES:
        print(name, flush=True)
        with running_server() as server:  # of its own: what another template has sampled would not be saved again
            workflow = write(server, name)
            if missing_checkpoints(server, workflow):
                picture = thumbnails.of_steps(name.rpartition(", ")[2])
            else:
                run(server, workflow)
                picture = thumbnails.of_pictures(workflow, server.base / "output")
        picture.save(FOLDER / f"{name}.jpg", quality=90)


if __name__ == "__main__":
    main()
