"""Finds out which part of the sampled picture each call of the model sees, so that masks lie where they should."""

from dataclasses import dataclass

import torch

from ...sae_ops.masks import Place
from .halves import with_note
from .streams import patch_sides

SAMPLED = "sae_eraser_sampled"
"""Where it is in transformer_options."""


@dataclass(frozen=True)
class Sampled:
    """The pictures that are sampled, and the area of them that each prompt is for."""

    images: int
    size: tuple[int, ...]
    """Of the latents: (frames,) height and width."""
    areas: dict
    """By the prompt's uuid: sizes and then starts in every direction, or None for the whole picture."""


def note_sampled(executor, model, conds, x, timestep, model_options, *args, **kwargs):
    """The wrapper around all calls at one noise level; leaves a Sampled in transformer_options for find_place."""
    areas = {prompt["uuid"]: prompt.get("area") for prompts in conds for prompt in prompts or ()}
    options = with_note(model_options, SAMPLED, Sampled(len(x), tuple(x.shape[2:]), areas))
    return executor(model, conds, x, timestep, options, *args, **kwargs)


def find_place(x: torch.Tensor, options: dict, diffusion_model: torch.nn.Module) -> Place:
    """Where x, the latents of one call, lies in the picture. Raises RuntimeError if that cannot be known."""
    sampled = options.get(SAMPLED)
    if sampled is None:
        raise RuntimeError(
            "Something calls the diffusion model without telling for what, so a mask cannot be laid on the picture. "
            "Sample with a node that goes through ComfyUI's samplers, or take the mask out."
        )
    window = options.get("context_window")
    if window and window.dim >= x.ndim - 2:
        raise RuntimeError(
            "Context windows cut the picture into parts, so a mask cannot be laid on it. Take that node out of the "
            "workflow, or take the mask out."
        )
    areas = [_area(sampled, uuid) for uuid in options["uuids"]]
    pictures, chunk = pictures_of_window(window) or (sampled.images, tuple(range(sampled.images)))
    height, width = x.shape[-2:]
    if len(x) != len(areas) * len(chunk) or any(size != (height, width) for size, _ in areas):
        raise RuntimeError(
            f"The model is called with {len(x)} latents of {height} x {width}, not with the picture of "
            f"{' x '.join(map(str, sampled.size[-2:]))} or an area of it, so a mask cannot be laid on it. Take the "
            "node out of the workflow that cuts the picture into tiles, or take the mask out."
        )
    rows, columns = patch_sides(diffusion_model, sampled.size)[-2:]
    covered = (-(-height // rows) * rows, -(-width // columns) * columns)
    corners = tuple(corner for _, corner in areas)
    return Place((sampled.size[-2], sampled.size[-1]), (height, width), covered, corners, pictures, chunk)


def pictures_of_window(window) -> tuple[int, tuple[int, ...]] | None:
    """How many pictures a context window is cut from, and which of them it has; None if it has them all."""
    if not window or window.dim != 0:
        return None
    anchor = getattr(window, "causal_anchor_index", None)
    before = () if anchor is None else (anchor,)
    return window.total_frames, (*before, *window.index_list)


def _area(sampled: Sampled, uuid) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width, and top and left, of what a prompt is for."""
    height, width = sampled.size[-2:]
    area = sampled.areas.get(uuid)
    if area is None:
        return (height, width), (0, 0)
    top, left = area[-2:]
    rows, columns = area[: len(area) // 2][-2:]
    return (min(rows, height - top), min(columns, width - left)), (top, left)
