"""Erase Concept beside a ControlNet, and beside patches as IPAdapter, FreeU and others put on a model."""

import comfy.cldm.cldm
import comfy.controlnet
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy_extras.nodes_freelunch import FreeU

from with_comfyui.random_files import MID, UP
from with_comfyui.sampling import differs, encode, erase
from with_comfyui.small_models import randomize

MIDDLE = ("middle", 0)


def attend_elsewhere(q, k, v, options):
    """The tokens of the text, and with the same queries another picture's: here the text's in reverse order."""
    heads = options["n_heads"]
    return optimized_attention(q, k, v, heads) + optimized_attention(q, -k, v.flip(1), heads)


def with_patch(model, name: str):
    """A clone of the model with a patch that another pack would put on it."""
    if name == "FreeU":
        return FreeU.execute(model, 1.5, 1.6, 0.9, 0.2).result[0]
    clone = model.clone()
    if name == "attn2_replace":  # as IPAdapter does
        clone.set_model_attn2_replace(attend_elsewhere, *MIDDLE)
    elif name == "attn1_replace":
        clone.set_model_attn1_replace(lambda q, k, v, options: 2 * v, *MIDDLE)
    elif name == "attn2_patch":
        clone.set_model_attn2_patch(lambda n, context, value, options: (n, context, 2 * value))
    elif name == "attn1_patch":
        clone.set_model_attn1_patch(lambda n, context, value, options: (n, context, 2 * value))
    else:
        clone.set_model_output_block_patch(lambda h, skip, options: (1.5 * h, skip))
    return clone


@pytest.mark.parametrize(
    "name", ["attn2_replace", "attn1_replace", "attn2_patch", "attn1_patch", "output_block_patch", "FreeU"]
)
def test_a_patch_before_or_after_the_eraser_draws_the_same_and_both_act(model, sample, name):
    patched, erased = with_patch(model, name), erase(model)
    both = sample(with_patch(erased, name), steps=2)
    assert torch.equal(sample(erase(patched), steps=2), both)
    assert differs(both, sample(erased, steps=2)), "the patch acts"
    assert differs(both, sample(patched, steps=2)), "the erasure acts"


@pytest.fixture(scope="module")
def controlled(comfyui, world, model) -> dict:
    """Both prompts of a sampling with a ControlNet of the small world's shape and random weights."""
    config = {**model.model.model_config.unet_config, "hint_channels": 3, "dtype": torch.float32}
    del config["out_channels"]
    control_model = comfy.cldm.cldm.ControlNet(**config)
    randomize(control_model, seed=0)
    net = comfy.controlnet.ControlNet(control_model, load_device=model.load_device)
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    prompts = [encode(world.clip, text) for text in ("a star in neon style", "")]
    node = comfyui.nodes.ControlNetApplyAdvanced()
    return dict(
        zip(("positive", "negative"), node.apply_controlnet(*prompts, net, picture, 1.0, 0.0, 1.0), strict=True)
    )


@pytest.mark.parametrize("sae", [MID, UP], ids=["added after the block", "added before it"])
def test_a_controlnet_and_an_eraser_both_act(model, sample, controlled, sae):
    erased = erase(model, sae=sae)
    both = sample(erased, steps=2, **controlled)
    assert both.isfinite().all()
    assert differs(both, sample(erased, steps=2)), "the ControlNet acts"
    assert differs(both, sample(model, steps=2, **controlled)), "the erasure acts"


def test_a_controlnet_leaves_a_picture_without_the_concept_as_it_is(model, sample, controlled):
    assert torch.equal(sample(erase(model, "silent"), steps=2, **controlled), sample(model, steps=2, **controlled))
