"""The pack as a user's ComfyUI shows it after a start."""

from checkout import ROOT
from comfy_server import Server


def test_all_nodes_load(server: Server):
    nodes = server.request("/object_info").values()
    loaded = [node["name"] for node in nodes if node["python_module"] == "custom_nodes.sae-eraser"]
    assert loaded
    assert "Cannot import" not in server.log
    assert "Error while calling comfy_entrypoint" not in server.log


def test_the_template_browser_lists_every_workflow(server: Server):
    workflows = [path.stem for path in (ROOT / "example_workflows").glob("*.json")]
    assert workflows
    assert sorted(server.request("/api/workflow_templates")["sae-eraser"]) == sorted(workflows)


def test_the_small_world_is_there(server: Server):
    assert "shapecanvas.safetensors" in server.request("/models/checkpoints")
    saes = [path.name for path in (ROOT / "tests" / "shapecanvas" / "weights").glob("sae_*.safetensors")]
    assert saes
    assert sorted(server.request("/models/sae")) == sorted(saes)
