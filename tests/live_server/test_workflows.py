"""The example workflows run through comfy-cli as they are."""

import json

import pytest

from checkout import ROOT
from comfy_server import Server
from demo import run
from templates.checkpoints import missing_checkpoints

WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_an_example_workflow_runs_and_saves_pictures(server: Server, path):
    workflow = json.loads(path.read_text())
    if missing := missing_checkpoints(server, workflow):
        pytest.skip(f"{', '.join(missing)} is not installed")
    run(server, workflow)
    assert list((server.base / "output").rglob("*.png"))
