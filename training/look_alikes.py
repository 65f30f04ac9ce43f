"""After training: by how strongly a concept's first latent fires in a picture, its look-alikes are told from it."""

import itertools
import math
from dataclasses import replace

import torch

from ..sae_ops.autoencoder import SparseAutoencoder
from ..sae_ops.chosen_latents import ChosenLatents
from ..sae_ops.concepts import ConceptStatistics
from .data import LabelledImages

NEARLY_ALL_WITH, NEARLY_ALL_WITHOUT = 0.98, 0.99
"""Shares of the pictures that show a concept, and of those of each other kind, by which these are told apart."""
EARLY = 0.25
"""In this part of the sampling, from its beginning, nearly all pictures that show a concept are found."""


def sparing_look_alikes(
    statistics: ConceptStatistics, sae: SparseAutoencoder, images: LabelledImages, latents: list[tuple[int, ...]]
) -> ConceptStatistics:
    """The statistics of concepts with these latents, and which mean over a map each concept's first must reach."""
    means = detection_means(sae, images, [first for first, *_ in latents])
    detection = torch.zeros_like(statistics.overall)
    detection[:, [0, *itertools.accumulate(len(own) for own in latents[:-1])]] = means
    positions = float(images.cache.map_positions(images.hookpoint))
    return replace(statistics, detection=detection, positions=torch.tensor(positions))


@torch.no_grad()
def detection_means(sae: SparseAutoencoder, images: LabelledImages, latents: list[int]) -> torch.Tensor:
    """Which mean over a map's positions shows each concept, [levels, concepts]; latents: the first of each.

    The highest of what nearly all pictures of each other concept, and of none, stay below; or such a share of it that
    nearly all with the concept reach it early in the sampling, after which they need not reach it again. Each other
    concept is taken by itself, since of many one look-alike is a small share. 0 if all or none show it.
    """
    levels, place = images.levels()
    chosen, means = ChosenLatents(sae, latents), torch.zeros(len(images), len(levels), len(latents))
    for image, (maps, _) in enumerate(images):
        z = chosen(maps.to(sae.W_enc.device).mT.contiguous()).mean(dim=2).cpu()
        means[image].index_add_(0, place, z / torch.bincount(place)[place, None])
    found, kinds = torch.zeros_like(means[0]), (*images.labels.T, ~images.labels.any(dim=1))
    for concept, shown in enumerate(images.labels.T):
        if shown.any() and not shown.all():
            others = [kind & ~shown for kind in kinds]
            found[:, concept] = telling_means(means[..., concept], shown, [kind for kind in others if kind.any()])
    return found


def telling_means(means: torch.Tensor, shown: torch.Tensor, others: list[torch.Tensor]) -> torch.Tensor:
    """Those of one concept, [levels]; means [images, levels], highest level last; shown and others bool [images]."""
    stayed_below = torch.stack([means[kind].quantile(NEARLY_ALL_WITHOUT, dim=0) for kind in others]).amax(dim=0)
    early = math.ceil(EARLY * len(stayed_below))
    shares = means[shown, -early:] / stayed_below[-early:].clamp(min=1e-12)
    return stayed_below * shares.amax(dim=1).quantile(1 - NEARLY_ALL_WITH).clamp(max=1)
