"""Masks of the picture, as weights for the positions of a map."""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class Place:
    """Where the maps of one call of the model lie in the sampled picture. Sizes are height and width in latents."""

    picture: tuple[int, int]
    """The whole picture that is sampled."""
    cutout: tuple[int, int]
    """What the call sees of it, which is less if a prompt is for an area of the picture."""
    covered: tuple[int, int]
    """The same, filled up at its bottom and right to whole patches of a transformer."""
    corners: tuple[tuple[int, int], ...]
    """Top and left of the cut-out, for every chunk of the batch."""
    pictures: int
    """How many are sampled at once."""
    chunk: tuple[int, ...]
    """Which of them are in every chunk of the batch, in this order."""


def mask_weights(mask: torch.Tensor, place: Place, sizes: tuple[int, ...]) -> torch.Tensor:
    """The share of every position that is masked: fp32 [chunks * pictures in a chunk, positions], in 0 to 1.

    mask [masks, height, width] covers the whole picture, whatever its size; sizes are (frames,) height and width of
    the map. The weights are on the CPU: MPS cannot pool to sizes that do not divide.

    Raises ValueError if there are neither one mask nor as many as pictures, or if the map is no picture.
    """
    if len(mask) not in (1, place.pictures):
        raise ValueError(
            f"The mask is a batch of {len(mask)}, but {place.pictures} pictures are sampled at once. Give one mask for "
            "all of them, or one for each."
        )
    *frames, rows, columns = sizes
    if rows > place.covered[0] or columns > place.covered[1]:
        raise ValueError(
            "This block's vectors cannot be told by their place in the picture, so a mask cannot be used here. Take "
            "the mask out, or nodes that add pictures to go by, or merge or drop tokens."
        )
    height, width = place.cutout
    own = mask if len(mask) == 1 else mask[list(place.chunk)]
    latents = F.adaptive_avg_pool2d(own.cpu(), place.picture)
    cutouts = torch.stack([latents[:, top : top + height, left : left + width] for top, left in place.corners])
    cutouts = cutouts.expand(-1, len(place.chunk), -1, -1).flatten(0, 1)
    filled_up = (0, place.covered[1] - width, 0, place.covered[0] - height)
    weights = F.adaptive_avg_pool2d(F.pad(cutouts, filled_up, mode="replicate"), (rows, columns))
    return weights.flatten(1).repeat(1, math.prod(frames))
