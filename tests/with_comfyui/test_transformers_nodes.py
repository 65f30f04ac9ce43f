"""Collecting, training and erasing in diffusion transformers, through the pack's nodes and ComfyUI's sampler."""

import json

import pytest
import torch

from pure.training_runs import train
from sae_eraser.nodes.hooks.block_hooks import resolve_hookpoint
from sae_eraser.nodes.sample.sample_prompts import SamplePrompts
from sae_eraser.sae_ops.hookpoints import list_hookpoints
from sae_eraser.sae_ops.sae_file import read_header
from sae_eraser.training.cache.reader import Cache
from with_comfyui.collecting import activations, collector
from with_comfyui.random_files import write_random_sae
from with_comfyui.sampling import differs, erase, sample_with
from with_comfyui.small_models import with_recorder
from with_comfyui.small_transformers import CONFIGS, small_transformer

HOOKPOINTS = {
    "SD3": "transformer_blocks.1",
    "Flux": "single_transformer_blocks.0",
    "AuraFlow": "single_transformer_blocks.0",
    "PixArtSigma": "transformer_blocks.0",
    "Lumina2": "layers.0",
    "ZImage": "layers.0",
    "QwenImage": "transformer_blocks.0",
    "WAN21_T2V": "blocks.0",
}


@pytest.fixture(scope="module", params=CONFIGS)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def transformer(comfyui, family):
    return small_transformer(family)


@pytest.fixture
def size(family) -> tuple[int, int]:
    """Of the latents; ComfyUI's PixArt divides by zero in small pictures."""
    return (48, 40) if family == "PixArtSigma" else (6, 10)


@pytest.fixture(scope="module")
def sae(comfyui, family, transformer) -> str:
    """Random weights, in models/sae."""
    point = resolve_hookpoint(transformer, HOOKPOINTS[family])
    file = f"random_{family}.safetensors"
    write_random_sae(comfyui.base / "models" / "sae" / file, point.name, seed=1, d=point.width, model_family=family)
    return file


@pytest.mark.parametrize("mode", ["scale", "replace"])
def test_erasing_changes_each_picture_as_it_would_alone(world, transformer, sae, size, mode):
    erased = erase(transformer, sae=sae, mode=mode)
    both = sample_with(world.clip, erased, size=size, batch_index=[0, 1])
    alone = sample_with(world.clip, erased, size=size, batch_index=[1])
    torch.testing.assert_close(both[1], alone[0], rtol=1e-2, atol=1e-2)
    assert differs(both, sample_with(world.clip, transformer, size=size, batch_index=[0, 1]))


def test_a_concept_that_never_fires_leaves_every_bit(world, transformer, sae, size):
    plain = sample_with(world.clip, transformer, size=size)
    assert torch.equal(sample_with(world.clip, erase(transformer, "silent", sae), size=size), plain)


def test_the_node_collects_what_passes_at_the_block(world, family, transformer, size, tmp_path, monkeypatch):
    names = [point.name for point in list_hookpoints(transformer.model.diffusion_model)]
    pixels = {"height": 8 * size[0], "width": 8 * size[1]}
    recorded, seen = with_recorder(transformer)
    prompt = '{"prompt": "a star", "object": "star"}'
    folder = collector(world, tmp_path, monkeypatch)(
        model=recorded, prompts=prompt, hookpoints=", ".join(names), seeds=1, **pixels
    )
    assert Cache(folder).settings.model_family == family
    for name in names:
        maps = torch.stack(seen[name], dim=1).flatten(3).movedim(2, 3)  # [halves, calls, positions, d]
        found = activations(folder, name)
        assert any(torch.equal(half.half().float(), found) for half in maps.split(1)), name


@pytest.mark.parametrize("family", ["SD3", "Flux"], indirect=True)
def test_an_sae_trained_on_it_erases_there(comfyui, world, family, transformer, tmp_path, monkeypatch):
    folder = collector(world, tmp_path, monkeypatch)(
        model=transformer, hookpoints=HOOKPOINTS[family], seeds=10, batch_size=20
    )
    file = comfyui.base / "models" / "sae" / f"trained_{family}.safetensors"
    options = ("--latents", "64", "--k", "8", "--unsupervised-steps", "20", "--supervised-steps", "20")
    assert train(folder, file, *options) == 0
    assert (read_header(file).model_family, read_header(file).hookpoint) == (family, HOOKPOINTS[family])
    erased = erase(transformer, "star", file.name, mode="ablate")
    assert not torch.equal(sample_with(world.clip, erased), sample_with(world.clip, transformer))


def test_prompts_of_several_lengths_are_drawn_as_they_are_alone(world, transformer, size):
    """The long one has twice as many tokens, and most of these models would read a short one twice otherwise."""
    prompts = ["a star in neon style", " ".join(["a star in neon style and"] * 8), "a ring in dots style"]
    scale = transformer.get_model_object("latent_format").spacial_downscale_ratio
    settings = {"steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"}
    settings |= {"width": size[1] * scale, "height": size[0] * scale, "model": transformer, "clip": world.clip}

    def drawn(first_seed: int, *texts: str) -> torch.Tensor:
        lines = "\n".join(json.dumps({"prompt": text}) for text in texts)
        return SamplePrompts.execute(prompts=lines, first_seed=first_seed, **settings).result[0]["samples"]

    together = drawn(5, *prompts)
    for place, prompt in enumerate(prompts):
        torch.testing.assert_close(together[place], drawn(5 + place, prompt)[0], rtol=1e-2, atol=1e-2)
