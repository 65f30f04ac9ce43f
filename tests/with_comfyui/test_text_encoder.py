"""Hookpoints in text encoders: what passes there is what passes in transformers, and edits stay with their clone."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import comfy.sd
import pytest
import torch
from comfy import sd1_clip, sdxl_clip
from comfy.supported_models_base import ClipTarget
from comfy.text_encoders import aura_t5, sd2_clip
from transformers import CLIPTextConfig, CLIPTextModel

from sae_eraser.nodes.hooks.forward_hooks import BlockHook
from sae_eraser.nodes.hooks.text_hooks import get_text_hooks, resolve_text_hookpoint, with_text_hooks
from sae_eraser.sae_ops.hookpoints import HookpointError
from sae_eraser.sae_ops.text_hookpoints import is_text_hookpoint_name, list_text_hookpoints
from with_comfyui.small_models import randomize, relative_error

SMALL = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
TARGETS = {
    "SD15": ClipTarget(sd1_clip.SD1Tokenizer, sd1_clip.SD1ClipModel),
    "SD20": ClipTarget(sd2_clip.SD2Tokenizer, sd2_clip.SD2ClipModel),
    "SDXL": ClipTarget(sdxl_clip.SDXLTokenizer, sdxl_clip.SDXLClipModel),
    "SDXLRefiner": ClipTarget(sdxl_clip.SDXLTokenizer, sdxl_clip.SDXLRefinerClipModel),
}
ENCODERS = {
    "SD15": {"clip_l": "text_encoder"},
    "SD20": {"clip_h": "text_encoder"},
    "SDXL": {"clip_l": "text_encoder", "clip_g": "text_encoder_2"},
    "SDXLRefiner": {"clip_g": "text_encoder_2"},
}
PROMPTS = ["a star in neon style", "", "a (ring:1.3) " + "on and on " * 60]


@pytest.fixture(scope="module", params=TARGETS)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def clip(family):
    """ComfyUI's CLIP object of this family, in small, with random weights."""
    options = {f"{name}_model_config": SMALL for name in ENCODERS[family]} | {"dtype": torch.float32}
    clip = comfy.sd.CLIP(TARGETS[family], model_options=options, disable_dynamic=True)
    randomize(clip.cond_stage_model, 0)
    return clip


def recorder(clip):
    """A clone that reads prompts from the last layer, and what will pass at each hookpoint, call by call."""
    seen: dict[str, list[torch.Tensor]] = {}

    def record(name):
        def hook(x, sigma, is_cond):
            seen.setdefault(name, []).append(x.clone())
            return x

        return hook

    points = list_text_hookpoints(clip.cond_stage_model)
    recorded = with_text_hooks(clip, tuple(BlockHook(point, "output", record(point.name)) for point in points))
    recorded.clip_layer(-1)
    return recorded, seen


def test_layers_have_diffusers_names(family, clip):
    points = list_text_hookpoints(clip.cond_stage_model)
    assert all(is_text_hookpoint_name(name) for point in points for name in (point.name, point.path))
    assert [(point.name, point.path, point.width) for point in points] == [
        (
            f"{theirs}.text_model.encoder.layers.{layer}",
            f"{ours}.transformer.text_model.encoder.layers.{layer}",
            64,
        )
        for ours, theirs in ENCODERS[family].items()
        for layer in range(4)
    ]
    assert all(resolve_text_hookpoint(clip, point.path) == point for point in points)
    with pytest.raises(HookpointError, match="no hookpoint 'text_encoder.9'. It has: text_encoder"):
        resolve_text_hookpoint(clip, "text_encoder.9")


@pytest.mark.parametrize("prompt", PROMPTS, ids=["short", "empty", "long and weighted"])
def test_every_layer_passes_what_transformers_passes(family, clip, prompt):
    tokens = clip.tokenize(prompt)
    recorded, seen = recorder(clip)
    recorded.encode_from_tokens(tokens)
    for ours, theirs in ENCODERS[family].items():
        encoder = getattr(clip.cond_stage_model, ours)
        ids = [[token for token, _ in chunk] for chunk in tokens[ours.removeprefix("clip_")]]
        if "(" in prompt:
            ids.append(sd1_clip.gen_empty_tokens(encoder.special_tokens, 77))
        activation = "quick_gelu" if ours == "clip_l" else "gelu"
        config = CLIPTextConfig(**SMALL, hidden_act=activation, attn_implementation="eager")
        peer = CLIPTextModel(config).eval()
        weights = encoder.transformer.text_model.state_dict()
        peer.load_state_dict(weights)
        with torch.no_grad():
            expected = peer(torch.tensor(ids), output_hidden_states=True).hidden_states[1:]
        for layer, hidden in enumerate(expected):
            (found,) = seen[f"{theirs}.text_model.encoder.layers.{layer}"]
            error = relative_error(found, hidden.movedim(1, 2)[..., None])
            assert error < 1e-4, (theirs, layer, error)


def test_output_minus_input_is_what_a_layer_adds(family, clip):
    """ComfyUI's layers write into their input."""
    recorded, seen = recorder(clip)
    recorded.encode(PROMPTS[0])
    points = list_text_hookpoints(clip.cond_stage_model)[:2]
    residual = []
    hook = BlockHook(points[1], "residual", lambda x, sigma, is_cond: residual.append(x) or x)
    with_text_hooks(clip, (hook,)).encode(PROMPTS[0])
    added = seen[points[1].name][0] - seen[points[0].name][0]
    assert relative_error(residual[0], added) < 1e-4


def test_an_edit_changes_what_its_clone_encodes_and_no_other(clip):
    plain = clip.encode(PROMPTS[0])
    point = list_text_hookpoints(clip.cond_stage_model)[1]
    edited = with_text_hooks(clip, (BlockHook(point, "output", lambda x, sigma, is_cond: -x),))
    assert [hook.hookpoint for hook in get_text_hooks(edited)] == [point]
    for clone in (edited, edited.clone()):
        assert (clone.encode(PROMPTS[0]) - plain).abs().max() > 0.1
        assert torch.equal(clip.encode(PROMPTS[0]), plain)
    assert torch.equal(with_text_hooks(edited, ()).encode(PROMPTS[0]), plain)


def test_a_text_encoder_without_clip_is_refused():
    with torch.device("meta"):
        t5 = aura_t5.AuraT5Model(device="meta", dtype=torch.float32)
    with pytest.raises(HookpointError, match="AuraT5Model has no CLIP"):
        list_text_hookpoints(t5)
