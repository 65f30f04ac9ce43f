"""How the activations of an image lie, which is the same for all images of a cache."""

from collections.abc import Iterable

import torch

Layout = tuple[dict[str, tuple[int, ...]], torch.Tensor]
"""What an image has: (maps, positions, width) at every hookpoint, and noise levels [maps]."""


def layout_of(shapes: dict[str, tuple[int, ...]], sigmas: torch.Tensor) -> Layout | None:
    """The layout that several images share; None if their noise levels differ.

    shapes: (images, maps, positions, width) at every hookpoint; sigmas [images, maps].
    """
    each = {name: shape[1:] for name, shape in shapes.items()}
    return (each, sigmas[0].clone()) if _are_same_levels(sigmas, sigmas[0]) else None


def are_alike(first: Layout | None, second: Layout | None) -> bool:
    """Whether two images have the same, noise levels but for rounding. None is like nothing."""
    if first is None or second is None:
        return False
    return first[0] == second[0] and _are_same_levels(first[1], second[1])


def most_usual(layouts: Iterable[Layout]) -> Layout | None:
    """The one that most of them are like; of several the first. None if there is none."""
    kinds: list[list[Layout]] = []
    for layout in layouts:
        alike = next((kind for kind in kinds if are_alike(kind[0], layout)), None)
        if alike is None:
            kinds.append([layout])
        else:
            alike.append(layout)
    return max(kinds, key=len)[0] if kinds else None


def _are_same_levels(sigmas: torch.Tensor, of_one: torch.Tensor) -> bool:
    """Whether every row of sigmas [..., maps] is that of one image [maps], but for rounding."""
    same_number = sigmas.shape[-1] == len(of_one)
    return same_number and torch.allclose(sigmas, of_one.expand_as(sigmas), rtol=1e-3, atol=1e-6)
