"""Runs the node Collect Activations in this process, and reads what it wrote."""

import json
from collections.abc import Callable
from pathlib import Path

import comfy.model_management
import folder_paths
import torch

from sae_eraser.nodes.collect import cache_filling
from sae_eraser.nodes.collect.collect_activations import CollectActivations
from sae_eraser.training.cache.reader import Cache
from with_comfyui.sampling import with_probe

MID, UP = "mid_block.attentions.0", "up_blocks.0.attentions.0"
PROMPTS = "\n".join(
    json.dumps({"prompt": f"a {shape} in {style} style", "object": shape, "style": style})
    for shape in ("star", "ring")
    for style in ("neon", "plain")
)
SAMPLING = {
    "steps": 2,
    "cfg": 3.0,
    "sampler_name": "euler",
    "scheduler": "normal",
    "width": 64,
    "height": 64,
}


KEEP = {"storage": "fp16", "keep_steps": 0, "keep_positions": 0, "sigma_min": 0.0, "sigma_max": 0.0, "branch": "cond"}
IMAGE_BYTES = 2 * 2 * 16 * 128 * 2 + 2 * 4
"""Two hookpoints, two calls, 16 positions, width 128, fp16; and the noise levels."""


def collector(world, output: Path, monkeypatch) -> Callable[..., Path]:
    """collect(...) -> the folder of the cache; shards of three images, in an output folder of the test's own."""
    monkeypatch.setattr(cache_filling, "SHARD_BYTES", 3 * IMAGE_BYTES + 1)
    monkeypatch.setattr(cache_filling, "SHARD_IMAGES", 1)
    monkeypatch.setattr(folder_paths, "output_directory", str(output))

    def run(name="cache", model=world.model, prompts=PROMPTS, hookpoints=f"{MID}, {UP}", seeds=2, **changed) -> Path:
        inputs = {"first_seed": 5, "batch_size": 2, "hooked": "output", "shard": "1/1"} | SAMPLING | KEEP | changed
        node = CollectActivations.execute(
            model=model, clip=world.clip, prompts=prompts, hookpoints=hookpoints, name=name, seeds=seeds, **inputs
        )
        return Path(node.result[0])

    return run


def activations(folder: Path, hookpoint: str) -> torch.Tensor:
    """All of it, fp32 [images, maps, positions, width]."""
    cache = Cache(folder)
    return torch.stack([cache.read_image(hookpoint, image) for image in cache.images])


def sigmas(folder: Path) -> torch.Tensor:
    """[images, maps]."""
    cache = Cache(folder)
    return torch.cat([cache.sigmas(shard) for shard in cache.shards])


def interrupting(world, at: int):
    """A model whose at-th call is interrupted, as by ComfyUI's button."""
    calls = []

    def probe(x, options):
        calls.append(x)
        if len(calls) == at:
            comfy.model_management.interrupt_current_processing()

    return with_probe(world.model, probe)
