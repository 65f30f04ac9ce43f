"""Nodes that write files, through ComfyUI's executor with its cache: they run again if their files have changed."""

import shutil
from pathlib import Path

import pytest

from comfy_server import Server
from live_server.history import messages

COLLECT, TRAIN = "2", "3"
PROMPTS = "\n".join(f'{{"prompt": "a {name} in plain style", "object": "{name}"}}' for name in ("star", "ring"))


def with_defaults(server: Server, node: str, **inputs) -> dict:
    """The node in the API's format, with its defaults where nothing else is given."""
    groups = server.request(f"/object_info/{node}")[node]["input"].values()
    known = {name: spec[1].get("default") for group in groups for name, spec in group.items() if len(spec) > 1}
    defaults = {name: value for name, value in known.items() if value is not None}
    return {"class_type": node, "inputs": defaults | inputs}


def cached(run, graph: dict) -> set[str]:
    """The nodes that did not run again."""
    entry = run(graph)
    assert entry["status"]["status_str"] == "success", entry["status"]
    return {node for own in messages(entry, "execution_cached") for node in own["nodes"]}


@pytest.mark.usefixtures("tidied")
def test_a_cache_and_an_sae_are_made_once_and_again_when_they_are_gone(server, run):
    name, little = "files_left", {"unsupervised_steps": 4, "supervised_steps": 4, "latents": 32, "k": 4}
    sample = {"model": ["4", 0], "positive": ["5", 0], "negative": ["5", 0], "latent_image": ["6", 0]}
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "shapecanvas.safetensors"}},
        COLLECT: with_defaults(
            server,
            "SAEEraser_CollectActivations",
            **{"model": ["1", 0], "clip": ["1", 1], "prompts": PROMPTS, "hookpoints": "mid_block.attentions.0"},
            **{"name": name, "seeds": 8, "steps": 4, "width": 64, "height": 64},
        ),
        TRAIN: with_defaults(server, "SAEEraser_TrainSAE", cache=[COLLECT, 0], name=name, **little),
        "4": with_defaults(server, "SAEEraser_EraseConcepts", model=["1", 0], sae=[TRAIN, 1], concepts="star"),
        "5": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a star"}},
        "6": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "7": with_defaults(server, "KSampler", **sample, steps=2, sampler_name="euler", scheduler="normal"),
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["7", 0], "vae": ["1", 2]}},
        "9": {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}},
    }
    assert not cached(run, graph) & {COLLECT, TRAIN}
    assert cached(run, graph) == {*graph}
    sae = server.base / "models" / "sae" / f"{name}.safetensors"
    sae.unlink()
    assert COLLECT in (kept := cached(run, graph)) and TRAIN not in kept and sae.exists()
    assert cached(run, graph) == {*graph}
    folder = Path(server.base, "output", "sae_cache", name)
    for _ in range(2):
        shutil.rmtree(folder)
        assert COLLECT not in cached(run, graph) and folder.is_dir()
        assert COLLECT in cached(run, graph)
