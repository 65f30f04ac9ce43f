"""Hookpoints: the places in a model where activations are read and edited, under diffusers' names and ComfyUI's paths.

The table is computed from the model's structure, so any UNet that ComfyUI builds has one, and so has any transformer
made of the blocks in TRANSFORMERS.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from operator import attrgetter

from torch import nn


class HookpointError(ValueError):
    """The model has no such hookpoint, or the hookpoint does not have what is asked of it."""

    __module__ = "sae_eraser"  # as the page says it before the message


@dataclass(frozen=True)
class Hookpoint:
    """The output of one block of the diffusion model."""

    name: str
    """diffusers' name, e.g. "up_blocks.1.attentions.1"."""
    path: str
    """Module path inside ComfyUI's diffusion model, e.g. "output_blocks.4.1"."""
    width: int
    """Channels of the block's output, the d of an SAE trained there."""
    stream: str = "map"
    """Where the picture's vectors are in what the block puts out.

    "map": all of it, [images, d, height, width],
    "tokens": all of it, [images, tokens, d],
    "first", "second": one of a pair, [images, tokens, d] each; the other one is the text's,
    "slice": in one sequence with the text, at the places that ComfyUI hands to the block,
    "last": at the end of one sequence with the text, followed only by what pads them.
    """
    argument: int | str = 0
    """The argument of the block, by position or by name, that the stream continues."""
    has_residual: bool = True
    """False if the block changes the shape, so that there is no output minus input."""
    parts: frozenset[str] = field(default=frozenset(), compare=False)
    """Names of what the block is made of, by which it is known again."""


@dataclass(frozen=True)
class TransformerBlocks:
    """A list of like blocks in a transformer."""

    family: str
    path: str
    """The list's name in ComfyUI's diffusion model."""
    block: str
    """Class of the blocks, or one that they inherit from."""
    width: str
    """The diffusion model's attribute that has the width."""
    name: str
    """The list's name in diffusers."""
    stream: str
    argument: int | str = 0


_AURA_WIDTH = "cond_seq_linear.out_features"
TRANSFORMERS = tuple(
    TransformerBlocks(*row)
    for row in (
        ("Stable Diffusion 3", "joint_blocks", "JointBlock", "hidden_size", "transformer_blocks", "second", 1),
        ("Flux", "double_blocks", "DoubleStreamBlock", "hidden_size", "transformer_blocks", "first", "img"),
        ("Flux", "single_blocks", "SingleStreamBlock", "hidden_size", "single_transformer_blocks", "slice"),
        ("AuraFlow", "double_layers", "MMDiTBlock", _AURA_WIDTH, "joint_transformer_blocks", "second", 1),
        ("AuraFlow", "single_layers", "DiTBlock", _AURA_WIDTH, "single_transformer_blocks", "last"),
        ("PixArt", "blocks", "PixArtMSBlock", "hidden_size", "transformer_blocks", "tokens"),
        ("Lumina 2", "noise_refiner", "JointTransformerBlock", "dim", "noise_refiner", "last"),
        ("Lumina 2", "layers", "JointTransformerBlock", "dim", "layers", "last"),
        (
            "Qwen-Image",
            "transformer_blocks",
            "QwenImageTransformerBlock",
            "inner_dim",
            "transformer_blocks",
            "second",
            "hidden_states",
        ),
        ("Wan", "blocks", "WanAttentionBlock", "dim", "blocks", "tokens"),
    )
)
"""Chroma and HunyuanVideo are built of Flux's blocks, Z-Image of Lumina 2's."""
_UNET_NAMES = re.compile(
    r"(down|up)_blocks\.\d+\.(attentions|resnets|downsamplers|upsamplers)\.\d+|mid_block\.(attentions|resnets)\.\d+|"
    r"(input|output)_blocks\.\d+\.\d+|middle_block\.\d+"
)
"""All names and module paths that _walk_unet can give."""


def list_hookpoints(diffusion_model: nn.Module) -> list[Hookpoint]:
    """All its blocks in the order in which they run; raises HookpointError if it is made of others than known here."""
    if all(hasattr(diffusion_model, part) for part in ("input_blocks", "middle_block", "output_blocks")):
        middle = [diffusion_model.middle_block] if diffusion_model.middle_block is not None else []
        return [
            *_walk_unet(diffusion_model.input_blocks, "input_blocks.{}", "down_blocks.{}", "downsamplers"),
            *_walk_unet(middle, "middle_block", "mid_block", ""),
            *_walk_unet(diffusion_model.output_blocks, "output_blocks.{}", "up_blocks.{}", "upsamplers"),
        ]
    found = [
        Hookpoint(
            f"{blocks.name}.{index}",
            f"{blocks.path}.{index}",
            attrgetter(blocks.width)(diffusion_model),
            blocks.stream,
            blocks.argument,
            parts=parts_of(block),
        )
        for blocks in TRANSFORMERS
        for index, block in enumerate(getattr(diffusion_model, blocks.path, ()))
        if _is_a(block, blocks.block)
    ]
    if not found:
        families = ", ".join(dict.fromkeys(blocks.family for blocks in TRANSFORMERS))
        raise HookpointError(
            f"The blocks of this model ({type(diffusion_model).__name__}) are not known. Hookpoints exist for UNets "
            f"such as SD1.5, SD2 and SDXL, and for transformers built like {families}."
        )
    return found


def _walk_unet(blocks, path: str, name: str, resamplers: str) -> list[Hookpoint]:
    """One side of the UNet. A resampling layer ends a level, within which attentions and resnets are counted."""
    found: list[Hookpoint] = []
    level, counts = 0, Counter[str]()
    for index, block in enumerate(blocks):
        for place, layer in enumerate(block):
            resamples = _is_a(layer, "Downsample", "Upsample") or getattr(layer, "updown", False)
            if _is_a(layer, "SpatialTransformer"):
                kind, width, same_shape = "attentions", layer.in_channels, True
            elif _is_a(layer, "ResBlock"):
                kind = resamplers if resamples else "resnets"
                width, same_shape = layer.out_channels, layer.channels == layer.out_channels and not resamples
            else:
                kind = ""
            if kind:
                full, at = f"{name.format(level)}.{kind}.{counts[kind]}", f"{path.format(index)}.{place}"
                found.append(Hookpoint(full, at, width, has_residual=same_shape, parts=parts_of(layer)))
                counts[kind] += 1
            if resamples:
                level += 1
                counts.clear()
    return found


def _is_a(module: nn.Module, *names: str) -> bool:
    """Whether a module is of one of these classes, by name: ComfyUI's classes cannot be imported here."""
    return any(base.__name__ in names for base in type(_within(module)).__mro__)


def parts_of(block: nn.Module) -> frozenset[str]:
    """Names of the modules that a block is made of."""
    return frozenset(name for name, _ in _within(block).named_children())


def _within(module: nn.Module) -> nn.Module:
    """The module itself, without the shell that torch.compile puts around it."""
    return getattr(module, "_orig_mod", module)


def find_hookpoint(diffusion_model: nn.Module, name: str) -> Hookpoint:
    """The hookpoint of this diffusers name (a leading "unet." or "transformer." is ignored) or module path.

    Raises HookpointError, which lists those the model has.
    """
    return choose_hookpoint(list_hookpoints(diffusion_model), _bare(name), "model")


def is_hookpoint_name(name: str) -> bool:
    """Whether find_hookpoint could find this name or module path in some model."""
    blocks, _, index = _bare(name).rpartition(".")
    lists = {listed for row in TRANSFORMERS for listed in (row.name, row.path)}
    return bool(_UNET_NAMES.fullmatch(_bare(name))) or (blocks in lists and index.isdecimal())


def _bare(name: str) -> str:
    """The name without what may stand before it."""
    name = name.strip()
    for prefix in ("unet.", "transformer.", "diffusion_model."):
        name = name.removeprefix(prefix)
    return name


def choose_hookpoint(hookpoints: list[Hookpoint], name: str, owner: str) -> Hookpoint:
    """The one of this name or path. Raises HookpointError, which says what the owner has."""
    for hookpoint in hookpoints:
        if name in (hookpoint.name, hookpoint.path):
            return hookpoint
    names = ", ".join(hookpoint.name for hookpoint in hookpoints)
    raise HookpointError(f"This {owner} has no hookpoint '{name}'. It has: {names}.")
