"""The zip of the registry, unpacked into the custom_nodes of a ComfyUI that has nothing else of the checkout."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkout import ROOT
from comfy_server import Server, running_server
from packing import copy_checkout, pack, unpack

pytest.importorskip("comfy_cli")
BLOCK = "mid_block.attentions.0"
PROMPTS = "prompt,object\na star in neon style,star\na ring in neon style,ring"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    unpack(pack(copy_checkout(folder)), folder / "sae-eraser")
    return folder / "sae-eraser"


@pytest.fixture(scope="module")
def installed(unpacked) -> Iterator[Server]:
    """A ComfyUI with the unpacked zip as custom_nodes/sae-eraser."""
    with running_server(unpacked) as running:
        yield running


def training_graph() -> dict:
    """Two prompts collected and an SAE trained on them, as small as may be, in the API's format."""
    collecting = {"prompts": PROMPTS, "hookpoints": BLOCK, "name": "packed", "seeds": 12, "first_seed": 0, "steps": 2}
    sampling = {"cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "width": 64, "height": 64, "batch_size": 24}
    keeping = {"storage": "fp16", "keep_steps": 0, "keep_positions": 0, "sigma_min": 0.0, "sigma_max": 0.0}
    phases = {"latents": 32, "k": 4, "unsupervised_steps": 2, "supervised_steps": 2, "vectors": 64, "maps": 8}
    training = {"activation": "batchtopk", "learning_rate": 0.0, "seed": 0, "memory": 1.0, "checkpoint_minutes": 2.0}
    flags = {"overwrite": False, "restart": False, "skip_bad_shards": False, "branch": "cond"}
    nodes = {
        "1": ("CheckpointLoaderSimple", {"ckpt_name": "shapecanvas.safetensors"}),
        "2": (
            "SAEEraser_CollectActivations",
            {"model": ["1", 0], "clip": ["1", 1], **collecting, **sampling, **keeping}
            | {"branch": "cond", "hooked": "output", "shard": "1/1"},
        ),
        "3": (
            "SAEEraser_TrainSAE",
            {"cache": ["2", 0], "name": "packed", "hookpoint": "", "groups": "", **phases, **training, **flags},
        ),
    }
    return {number: {"class_type": name, "inputs": inputs} for number, (name, inputs) in nodes.items()}


def finish(server: Server, graph: dict) -> dict:
    """Runs a graph; what the server keeps of it."""
    number = server.request("/prompt", {"prompt": graph})["prompt_id"]
    while number not in (history := server.request(f"/history/{number}")):
        time.sleep(0.2)
    return history[number]


def test_comfyui_loads_it_without_a_word(installed):
    lines = installed.log.splitlines()
    assert [line for line in lines if "seconds:" in line and line.endswith("custom_nodes/sae-eraser")]
    assert not [line for line in lines if "custom_nodes" in line and ("WARNING" in line or "ERROR" in line)]
    for fault in ("Traceback", "Cannot import", "IMPORT FAILED", "comfy_entrypoint", "pyproject"):
        assert fault not in installed.log


def test_all_nodes_are_there(installed):
    nodes = installed.request("/object_info").items()
    loaded = [name for name, node in nodes if node["python_module"] == "custom_nodes.sae-eraser"]
    translated = json.loads((ROOT / "locales" / "ja" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert loaded == list(translated)


def test_the_page_gets_translations_help_and_templates(installed):
    for language, texts in installed.request("/i18n").items():
        file = ROOT / "locales" / language / "nodeDefs.json"
        assert texts == {"nodeDefs": json.loads(file.read_text(encoding="utf-8"))}
    scripts = {f"/extensions/sae-eraser/{name}" for name in ("sae_files.js", "node_texts.js")}
    assert scripts <= set(installed.request("/extensions"))
    blueprints = {entry["name"] for entry in installed.request("/global_subgraphs").values()}
    assert {"Image without a concept", "Original and erased"} <= blueprints
    templates = {path.stem for path in (ROOT / "example_workflows").glob("*.json")}
    assert set(installed.request("/workflow_templates")["sae-eraser"]) == templates


def test_an_sae_is_trained_by_the_unpacked_script(installed, unpacked):
    with (unpacked / "training" / "commands" / "train_command.py").open("a") as script:
        script.write('\n__import__("pathlib").Path(__file__).with_name("ran").touch()\n')
    ended = finish(installed, training_graph())
    assert ended["status"]["status_str"] == "success", json.dumps(ended["status"]["messages"][-1])
    assert (installed.base / "models" / "sae" / "packed.safetensors").is_file()
    assert (unpacked / "training" / "commands" / "ran").exists()
