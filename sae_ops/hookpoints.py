"""Hookpoints: the places in a UNet where activations are read and edited, under diffusers' names and ComfyUI's paths.

The table is computed from the model's structure, so any UNet that ComfyUI builds has one.
"""

from collections import Counter
from dataclasses import dataclass

from torch import nn


class HookpointError(ValueError):
    """The model has no such hookpoint."""


@dataclass(frozen=True)
class Hookpoint:
    """The output of one block of the UNet."""

    name: str
    """diffusers' name, e.g. "up_blocks.1.attentions.1"."""
    path: str
    """Module path inside ComfyUI's diffusion model, e.g. "output_blocks.4.1"."""
    width: int
    """Channels of the block's output, the d of an SAE trained there."""


def list_hookpoints(diffusion_model: nn.Module) -> list[Hookpoint]:
    """All attention and resnet blocks in the order in which they run; raises HookpointError if this is no UNet."""
    if not all(hasattr(diffusion_model, part) for part in ("input_blocks", "middle_block", "output_blocks")):
        kind = type(diffusion_model).__name__
        raise HookpointError(f"{kind} is not a UNet. Hookpoints exist for UNets such as SD1.5, SD2 and SDXL.")
    middle = [diffusion_model.middle_block] if diffusion_model.middle_block is not None else []
    return [
        *_walk(diffusion_model.input_blocks, "input_blocks.{}", "down_blocks.{}"),
        *_walk(middle, "middle_block", "mid_block"),
        *_walk(diffusion_model.output_blocks, "output_blocks.{}", "up_blocks.{}"),
    ]


def _walk(blocks, path: str, name: str) -> list[Hookpoint]:
    """One side of the UNet. A resampling layer ends a level, within which attentions and resnets are counted."""
    found: list[Hookpoint] = []
    level, counts = 0, Counter[str]()
    for index, block in enumerate(blocks):
        for place, layer in enumerate(block):
            match type(layer).__name__:
                case "Downsample" | "Upsample":
                    level += 1
                    counts.clear()
                    continue
                case "SpatialTransformer" | "SpatialVideoTransformer":
                    kind, width = "attentions", layer.in_channels
                case "ResBlock" | "VideoResBlock":
                    kind, width = "resnets", layer.out_channels
                case _:
                    continue
            found.append(
                Hookpoint(f"{name.format(level)}.{kind}.{counts[kind]}", f"{path.format(index)}.{place}", width)
            )
            counts[kind] += 1
    return found


def find_hookpoint(diffusion_model: nn.Module, name: str) -> Hookpoint:
    """The hookpoint of this diffusers name (a leading "unet." is ignored) or module path.

    Raises HookpointError, which lists those the model has.
    """
    wanted = name.strip().removeprefix("unet.").removeprefix("diffusion_model.")
    hookpoints = list_hookpoints(diffusion_model)
    for hookpoint in hookpoints:
        if wanted in (hookpoint.name, hookpoint.path):
            return hookpoint
    names = ", ".join(hookpoint.name for hookpoint in hookpoints)
    raise HookpointError(f"This model has no hookpoint '{name}'. It has: {names}.")
