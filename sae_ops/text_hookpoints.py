"""Hookpoints in text encoders: the outputs of CLIP's layers, under diffusers' names and ComfyUI's paths."""

import re
from typing import Any

from torch import nn

from .hookpoints import Hookpoint, HookpointError, choose_hookpoint

TEXT_ENCODERS = {"clip_l": "text_encoder", "clip_h": "text_encoder", "clip_g": "text_encoder_2"}
"""ComfyUI's names and those in diffusers' pipelines."""
_NAMES = re.compile(
    rf"({'|'.join(TEXT_ENCODERS.values())}|({'|'.join(TEXT_ENCODERS)})\.transformer)\.text_model\.encoder\.layers\.\d+"
)
"""All names and module paths that list_text_hookpoints can give."""


def is_text_hookpoint(name: str) -> bool:
    """Whether a hookpoint of this name or module path is in a text encoder."""
    return name.strip().partition(".")[0] in {*TEXT_ENCODERS, *TEXT_ENCODERS.values()}


def is_text_hookpoint_name(name: str) -> bool:
    """Whether find_text_hookpoint could find this name or module path in some text encoder."""
    return bool(_NAMES.fullmatch(name.strip()))


def list_text_hookpoints(text_encoder: nn.Module) -> list[Hookpoint]:
    """All layers of ComfyUI's cond_stage_model; raises HookpointError if there is no CLIP in it."""
    found = []
    for part, name in TEXT_ENCODERS.items():
        model: Any = getattr(getattr(text_encoder, part, None), "transformer", None)
        if not hasattr(model, "text_model"):
            continue
        for index, layer in enumerate(model.text_model.encoder.layers):
            path = f"text_model.encoder.layers.{index}"
            width = layer.layer_norm1.normalized_shape[0]
            found.append(Hookpoint(f"{name}.{path}", f"{part}.transformer.{path}", width, "tokens"))
    if not found:
        raise HookpointError(
            f"{type(text_encoder).__name__} has no CLIP. Hookpoints in text encoders exist for CLIP, as in SD1.5, SD2, "
            "SDXL, SD3 and Flux."
        )
    return found


def find_text_hookpoint(text_encoder: nn.Module, name: str) -> Hookpoint:
    """The hookpoint of this diffusers name or module path. Raises HookpointError, which lists those there are."""
    return choose_hookpoint(list_text_hookpoints(text_encoder), name.strip(), "text encoder")


def check_is_read(text_encoder: nn.Module, hookpoint: Hookpoint) -> None:
    """Raises HookpointError if what the prompt becomes is taken from a layer before this one.

    Families differ in the layer, and ComfyUI's CLIP Set Last Layer changes it.
    """
    encoder: Any = getattr(text_encoder, hookpoint.path.partition(".")[0])
    last = encoder.layer_idx % encoder.num_layers if encoder.layer == "hidden" else encoder.num_layers - 1
    if int(hookpoint.path.rpartition(".")[2]) > last:
        raise HookpointError(
            f"{hookpoint.name} comes after layer {last}, from which the prompt is read here, so nothing done there has "
            f"an effect. Take CLIP Set Last Layer out of the workflow, or use an SAE for layer {last} or one before."
        )
