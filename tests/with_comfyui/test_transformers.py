"""Hookpoints of diffusion transformers: the picture's tokens alone, as a map of its patches."""

import pytest
import torch
from comfy_extras.nodes_flux import FluxKVCache

from sae_eraser.nodes.hooks.block_hooks import resolve_hookpoint, with_hooks
from sae_eraser.nodes.hooks.forward_hooks import BlockHook
from sae_eraser.sae_ops.hookpoints import is_hookpoint_name, list_hookpoints
from with_comfyui.small_models import call_model, relative_error, with_recorder
from with_comfyui.small_transformers import CONFIGS, TEXT, small_transformer

NAMES = {
    "SD3": ["transformer_blocks.0", "transformer_blocks.1", "transformer_blocks.2"],
    "Flux": [
        "transformer_blocks.0",
        "transformer_blocks.1",
        "single_transformer_blocks.0",
        "single_transformer_blocks.1",
    ],
    "AuraFlow": ["joint_transformer_blocks.0", "single_transformer_blocks.0", "single_transformer_blocks.1"],
    "PixArtSigma": ["transformer_blocks.0", "transformer_blocks.1"],
    "Lumina2": ["noise_refiner.0", "layers.0", "layers.1"],
    "ZImage": ["noise_refiner.0", "layers.0", "layers.1"],
    "QwenImage": ["transformer_blocks.0", "transformer_blocks.1"],
    "WAN21_T2V": ["blocks.0", "blocks.1"],
}
VIDEO = ("QwenImage", "WAN21_T2V")


@pytest.fixture(scope="module", params=CONFIGS)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def transformer(family):
    return small_transformer(family)


def latent_size(family: str, height: int, width: int) -> tuple[int, ...]:
    """Three frames for a model of videos; ComfyUI's PixArt divides by zero in small pictures, so its are larger."""
    if family == "PixArtSigma":
        return 8 * height, 8 * width
    return (*((3,) if family in VIDEO else ()), height, width)


def random_inputs(family: str, size: tuple[int, ...]) -> dict:
    """Of two images of these latents."""
    generator = torch.Generator().manual_seed(1)
    model_inputs = {
        "x": torch.randn(2, 4 if family in ("AuraFlow", "PixArtSigma") else 16, *size, generator=generator),
        "sigma": torch.tensor([0.9, 0.4]),
        "c_crossattn": torch.randn(2, 7, TEXT, generator=generator),
    }
    if family in ("SD3", "Flux"):
        model_inputs["y"] = torch.randn(2, TEXT, generator=generator)
    if family in ("Lumina2", "ZImage"):
        model_inputs["num_tokens"] = 7
    return model_inputs


def test_blocks_have_diffusers_names_in_their_order(family, transformer):
    points = list_hookpoints(transformer.model.diffusion_model)
    assert all(is_hookpoint_name(name) for point in points for name in (point.name, point.path))
    assert [point.name for point in points] == NAMES[family]
    assert all(resolve_hookpoint(transformer, f"transformer.{point.path}") == point for point in points)


@pytest.mark.parametrize("size", [(8, 8), (6, 14), (7, 9)], ids=str)
def test_a_hook_sees_a_map_of_the_patches(family, transformer, size):
    size = latent_size(family, *size)
    recorded, seen = with_recorder(transformer)
    call_model(recorded, **random_inputs(family, size))
    grid = (*size[:-2], (size[-2] + 1) // 2, (size[-1] + 1) // 2)
    points = list_hookpoints(transformer.model.diffusion_model)
    assert {name: [x.shape for x in calls] for name, calls in seen.items()} == {
        point.name: [(2, point.width, *grid)] for point in points
    }


def test_an_edit_in_the_last_block_changes_the_picture_there_and_nowhere_else(family, transformer):
    size = latent_size(family, 6, 10)
    frame = (1,) * (len(size) - 2)
    inputs = random_inputs(family, size)
    point = list_hookpoints(transformer.model.diffusion_model)[-1]
    place = (1, slice(None), *frame, 2, 3)

    def edit(x, sigma, is_cond):
        edited = x.clone()
        edited[place] += 3 * torch.linspace(-1, 1, x.shape[1])
        return edited

    change = call_model(with_hooks(transformer, (BlockHook(point, "output", edit),)), **inputs)
    change = (change - call_model(transformer, **inputs)).abs()
    patch = (1, slice(None), *frame, slice(4, 6), slice(6, 8))
    assert (change[patch] > 1e-4).all()
    change[patch] = 0
    assert change.max() < 1e-5


def test_output_minus_input_is_what_a_block_adds(family, transformer):
    inputs = random_inputs(family, latent_size(family, 6, 10))
    recorded, outputs = with_recorder(transformer)
    call_model(recorded, **inputs)
    recorded, residuals = with_recorder(transformer, "residual")
    call_model(recorded, **inputs)
    names = [name for name in NAMES[family] if not name.startswith("noise_refiner")]
    for before, after in zip(names, names[1:], strict=False):
        added = outputs[after][0] - outputs[before][0]
        assert relative_error(residuals[after][0], added) < 1e-5, after


def test_hooks_that_change_nothing_leave_every_bit(family, transformer):
    inputs = random_inputs(family, latent_size(family, 6, 10))
    recorded, _ = with_recorder(transformer, "residual")
    assert torch.equal(call_model(recorded, **inputs), call_model(transformer, **inputs))


@pytest.mark.parametrize("family", ["Flux", "QwenImage"], indirect=True)
def test_pictures_to_go_by_are_left_out(family, transformer):
    """As in Flux Kontext and Qwen-Image-Edit, whose tokens ComfyUI appends to those of the picture."""
    inputs = random_inputs(family, latent_size(family, 6, 10))
    references = [torch.randn(2, 16, *latent_size(family, 4, 4))]
    recorded, seen = with_recorder(transformer)
    with_reference = call_model(recorded, **inputs, ref_latents=references)
    assert (with_reference - call_model(transformer, **inputs)).abs().max() > 1e-3
    assert {calls[0].shape[2:] for calls in seen.values()} == {(*latent_size(family, 6, 10)[:-2], 3, 5)}


@pytest.mark.parametrize("family", ["Flux", "QwenImage"], indirect=True)
def test_the_whole_picture_is_seen_where_those_come_from_a_cache(family, transformer):
    """Flux KV Cache leaves their tokens out from the second call on, but ComfyUI still tells how many they were."""
    size = latent_size(family, 6, 10)
    recorded, seen = with_recorder(FluxKVCache.execute(transformer).result[0])
    for _ in range(2):
        call_model(recorded, **random_inputs(family, size), ref_latents=[torch.randn(2, 16, *size)])
    assert [x.shape[2:] for calls in seen.values() for x in calls] == [(*size[:-2], 3, 5)] * 2 * len(seen)


@pytest.mark.parametrize("family", ["WAN21_T2V"], indirect=True)
def test_where_other_tokens_cannot_be_told_apart_all_are_seen(family, transformer):
    inputs = random_inputs(family, (3, 6, 10))
    recorded, seen = with_recorder(transformer)
    call_model(recorded, **inputs, context_latents=[torch.randn(2, 16, 1, 4, 4)])
    assert seen["blocks.0"][0].shape == (2, 64, 3 * 3 * 5 + 2 * 2, 1)
