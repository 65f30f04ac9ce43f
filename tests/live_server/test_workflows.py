"""The example workflows run through comfy-cli as they are."""

import json

import pytest

from checkout import ROOT
from comfy_server import Server
from demo import run
from templates.checkpoints import missing_checkpoints
from templates.help_pictures import FOLDER, PICTURES

WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_an_example_workflow_runs_and_saves_pictures(tidied: Server, path):
    workflow = json.loads(path.read_text())
    if missing := missing_checkpoints(tidied, workflow):
        pytest.skip(f"{', '.join(missing)} is not installed")
    run(tidied, workflow)
    assert list((tidied.base / "output").rglob("*.png"))


def test_every_picture_of_the_help_pages_can_be_written_again():
    assert {f"{name}.jpg" for name in PICTURES} <= {path.name for path in FOLDER.iterdir()}
