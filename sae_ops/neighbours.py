"""Replaces positions of a map by others of the same map."""

import torch


def take_from_neighbours(maps: torch.Tensor, detected: torch.Tensor, weights: torch.Tensor, width: int) -> torch.Tensor:
    """Blends positions into the nearest one where nothing was detected, as far as their weight says.

    maps [images, d, positions], whose rows have `width` positions; detected bool and weights, of which more than 1
    counts as 1, [images, positions]. A map where all is detected stays as it is.
    """
    result = maps.clone()
    positions = torch.arange(maps.shape[-1], device=maps.device)
    places = torch.stack([positions // width, positions % width], dim=1).float()
    for image, weight in enumerate(weights):
        replaced, donors = weight.nonzero()[:, 0], (~detected[image]).nonzero()[:, 0]
        if len(replaced) and len(donors):
            nearest = donors[torch.cdist(places[replaced], places[donors]).argmin(dim=1)]
            share = weight[replaced].clamp(max=1).to(maps.dtype)
            result[image][:, replaced] = torch.lerp(maps[image][:, replaced], maps[image][:, nearest], share)
    return result
