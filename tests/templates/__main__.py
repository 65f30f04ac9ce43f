"""make templates: writes example_workflows/*.json, runs each in a real ComfyUI, and makes a thumbnail of its pictures.

Those whose checkpoint is not here get a card instead. Also writes subgraphs/*.json. Names after `python -m templates`
choose some of all these.
"""

import json
import sys
from pathlib import Path

from checkout import ROOT
from comfy_server import Server, running_server
from demo import run

from . import thumbnails
from .blueprints import BLUEPRINTS
from .catalogue import TEMPLATES
from .checkpoints import missing_checkpoints
from .graph import Graph
from .subgraph import Subgraph

FOLDER = ROOT / "example_workflows"
SUBGRAPHS = ROOT / "subgraphs"


def write_template(server: Server, name: str) -> None:
    graph = Graph(server.request("/object_info"))
    TEMPLATES[name](graph)
    workflow = graph.workflow()
    save(FOLDER / f"{name}.json", workflow)
    if missing_checkpoints(server, workflow):
        picture = thumbnails.of_steps(name.rpartition(", ")[2])
    else:
        run(server, workflow)
        picture = thumbnails.of_pictures(workflow, server.base / "output")
    picture.save(FOLDER / f"{name}.jpg", quality=90)


def write_blueprint(server: Server, name: str) -> None:
    graph = Subgraph(server.request("/object_info"))
    description = BLUEPRINTS[name](graph)
    save(SUBGRAPHS / f"{name}.json", graph.blueprint(name, description))


def save(path: Path, workflow: dict) -> None:
    path.write_text(json.dumps(workflow, indent=1) + "\n")


def main() -> None:
    for name in sys.argv[1:] or (*TEMPLATES, *BLUEPRINTS):
        print(name, flush=True)
        with running_server() as server:  # of its own: what another template has sampled would not be saved again
            (write_template if name in TEMPLATES else write_blueprint)(server, name)


if __name__ == "__main__":
    main()
