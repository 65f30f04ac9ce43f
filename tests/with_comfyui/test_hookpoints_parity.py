"""What passes at a hookpoint in ComfyUI is what passes there in diffusers, for the same weights and the same input."""

import re

import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import Timestep

from sae_eraser.sae_ops.hookpoints import list_hookpoints
from with_comfyui.diffusers_unets import CONFIGS, CONTEXT, small_unets
from with_comfyui.small_models import call_model, relative_error, with_recorder

SIZES = [(16, 16), (24, 8), (11, 21)]


@pytest.fixture(scope="module", params=CONFIGS)
def unets(request):
    return small_unets(request.param)


def random_inputs(model, size: tuple[int, int]) -> tuple[dict, dict]:
    """Of two images: arguments for ComfyUI's model, and the same for diffusers'."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    x, context = 3 * draw(2, 4, *size), draw(2, 9, CONTEXT)
    sigma = torch.tensor([3.0, 0.7])
    sampling = model.get_model_object("model_sampling")
    ours = {"x": x, "sigma": sigma, "c_crossattn": context}
    theirs = {
        "sample": sampling.calculate_input(sigma, x),
        "timestep": sampling.timestep(sigma),
        "encoder_hidden_states": context,
    }
    adm = model.model.model_config.unet_config["adm_in_channels"]
    if adm is not None:
        pooled, numbers = draw(2, 1280), 1000 * draw(2, (adm - 1280) // 256).abs()
        ours["y"] = torch.cat([pooled, Timestep(256)(numbers.flatten()).reshape(2, -1)], dim=1)
        theirs["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": numbers}
    return ours, theirs


def passes_in_diffusers(unet, names: list[str], inputs: dict) -> dict[str, torch.Tensor]:
    seen = {}

    def hook(name):
        def record(block, arguments, output):
            seen[name] = output[0] if isinstance(output, tuple) else output

        return record

    handles = [unet.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    with torch.no_grad():
        unet(**inputs)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_hookpoint_passes_what_diffusers_passes(unets, size):
    model, peer = unets
    names = [point.name for point in list_hookpoints(model.model.diffusion_model)]
    ours, theirs = random_inputs(model, size)
    recorded, seen = with_recorder(model)
    call_model(recorded, **ours)
    expected = passes_in_diffusers(peer, names, theirs)
    errors = {name: relative_error(seen[name][0], expected[name]) for name in names}
    assert max(errors.values()) < 1e-4, errors


def test_every_block_of_diffusers_is_a_hookpoint(unets):
    model, peer = unets
    blocks = re.compile(r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.(attentions|resnets)\.\d+")
    theirs = {name for name, _ in peer.named_modules() if blocks.fullmatch(name)}
    assert {point.name for point in list_hookpoints(model.model.diffusion_model)} == theirs
