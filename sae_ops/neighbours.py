"""Replaces positions of a map by others of the same map."""

import torch

AT_ONCE = 1024
"""Positions whose distances to all donors are held at once."""


def take_from_neighbours(
    maps: torch.Tensor, detected: torch.Tensor, weights: torch.Tensor, sizes: tuple[int, ...]
) -> torch.Tensor:
    """Blends positions into the nearest one where nothing was detected, as far as their weight says.

    maps [images, d, positions], whose positions are (frames,) height and width as `sizes` says; those of the same frame
    come first. detected bool and weights, of which more than 1 counts as 1, [images, positions]. A map where all is
    detected stays as it is.
    """
    result, places = maps.clone(), _places(sizes, maps.device)
    for image, weight in enumerate(weights):
        replaced, donors = weight.nonzero()[:, 0], (~detected[image]).nonzero()[:, 0]
        if len(replaced) and len(donors):
            nearest = torch.cat([donors[_nearest(places[some], places[donors])] for some in replaced.split(AT_ONCE)])
            share = weight[replaced].clamp(max=1).to(maps.dtype)
            result[image][:, replaced] = torch.lerp(maps[image][:, replaced], maps[image][:, nearest], share)
    return result


def _places(sizes: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """fp32 [positions, directions], the frames further apart than anything within one."""
    steps = torch.tensor([sum(sizes[-2:])] * (len(sizes) - 2) + [1] * len(sizes[-2:]), device=device)
    ranges = torch.meshgrid(*(torch.arange(size, device=device) for size in sizes), indexing="ij")
    return (torch.stack(ranges, dim=-1).reshape(-1, len(sizes)) * steps).float()


def _nearest(places: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """For every place the index of the nearest of `others`; by differences, since products round."""
    return torch.cdist(places, others, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
