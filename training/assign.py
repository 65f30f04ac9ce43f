"""Which latent belongs to which concept."""

from dataclasses import dataclass

import torch

from ..sae_ops.autoencoder import SparseAutoencoder
from .data import LabelledImages


@dataclass(frozen=True)
class LatentMeans:
    """Mean activations of latents over positions and images by their weights, at every noise level."""

    with_concept: torch.Tensor
    """[concepts, levels, latents], over the images that show the concept."""
    without: torch.Tensor
    """[concepts, levels, latents], over those that do not."""
    overall: torch.Tensor
    """[levels, latents]."""


@torch.no_grad()
def latent_means(sae: SparseAutoencoder, images: LabelledImages) -> LatentMeans:
    """Encodes all images, as at inference."""
    levels, place = images.levels()
    device = sae.W_enc.device
    shown = torch.zeros(images.labels.shape[1], len(levels), sae.config.n_latents)
    total = torch.zeros(len(levels), sae.config.n_latents)
    weights = torch.ones(len(images)) if images.weights is None else images.weights
    for (maps, labels), weight in zip(images, weights, strict=True):
        z = torch.stack([sae.encode(m.to(device)).mean(dim=0) for m in maps]).cpu()
        at_levels = weight * torch.zeros_like(total).index_add_(0, place, z) / torch.bincount(place)[:, None]
        total += at_levels
        shown[labels] += at_levels
    numbers, others = ((weights @ which.float())[:, None, None] for which in (images.labels, ~images.labels))
    return LatentMeans(shown / numbers.clamp(min=1e-6), (total - shown) / others.clamp(min=1e-6), total / len(images))


def latent_scores(means: LatentMeans) -> torch.Tensor:
    """SAeUron's score of every latent for every concept, averaged over noise levels, [concepts, latents].

    s(i, t, c) = mu(i, t, D_c) / sum_j mu(j, t, D_c) - mu(i, t, D_not c) / sum_j mu(j, t, D_not c)

    (SAeUron, arXiv 2501.18052.)
    """
    shares = [m / m.sum(dim=-1, keepdim=True).clamp(min=1e-12) for m in (means.with_concept, means.without)]
    return (shares[0] - shares[1]).mean(dim=1)


def assign_latents(scores: torch.Tensor, method: str = "greedy") -> list[int]:
    """One latent for each concept, none twice; scores [concepts, n].

    "greedy": the highest score of all takes its concept and its latent, and so on (SAEmnesia, arXiv 2509.21379).
    "optimal": the assignment with the largest sum. Raises ValueError if there are fewer latents than concepts.
    """
    concepts, n = scores.shape
    if n < concepts:
        raise ValueError(f"{concepts} concepts need as many latents, but the SAE has {n}. Choose more --latents.")
    if method == "optimal":
        from scipy.optimize import linear_sum_assignment

        return linear_sum_assignment(scores.numpy(), maximize=True)[1].tolist()
    open_scores, chosen = scores.clone(), [0] * concepts
    for _ in range(concepts):
        concept, latent = divmod(int(open_scores.argmax()), n)
        chosen[concept] = latent
        open_scores[concept], open_scores[:, latent] = -torch.inf, -torch.inf
    return chosen


def similarity(sae: SparseAutoencoder, images: LabelledImages) -> torch.Tensor:
    """How alike the concepts' pictures are, 0..1 [concepts, concepts]: cosines of their mean activations, negatives 0.

    Activations are normalised and taken relative to the mean of all images. On the device of the SAE.
    """
    sums = torch.zeros(images.labels.shape[1], sae.config.d_in)
    total = torch.zeros(sae.config.d_in)
    for maps, labels in images:
        mean = sae.normalise(maps.to(sae.input_shift.device)).mean(dim=(0, 1)).cpu()
        total += mean
        sums[labels] += mean
    centred = sums / images.labels.sum(dim=0).clamp(min=1)[:, None] - total / len(images)
    unit = torch.nn.functional.normalize(centred, dim=1)
    return (unit @ unit.T).clamp(min=0).to(sae.W_enc.device)


def carriers_of(scores: torch.Tensor, own: list[int], count: int) -> list[list[int]]:
    """For each concept its own latent and `count - 1` more, by score; no latent twice. scores [concepts, n].

    Raises ValueError if there are not so many.
    """
    free, found = scores.clone(), [[latent] for latent in own]
    for _ in range(count - 1):
        free[:, [latent for carriers in found for latent in carriers]] = -torch.inf
        if int((free[0] > -torch.inf).sum()) < len(own):
            raise ValueError(
                f"{len(own)} labels with {count} latents each need {len(own) * count} latents, but there are "
                f"{scores.shape[1]}. Choose more --latents, fewer --concept-latents, or --guidance-weight 0."
            )
        for carriers, latent in zip(found, assign_latents(free), strict=True):
            carriers.append(latent)
    return found


def companions(scores: torch.Tensor, own: list[int], count: int, taken: list[int]) -> list[tuple[int, ...]]:
    """For each concept its own latent, and the `count - 1` best of those with a score above 0 that are nobody's own.

    scores [concepts, n]; taken: own latents of further concepts. What the own latent does not carry of a concept, these
    do; one may serve several concepts.
    """
    free = scores.clone()
    free[:, [*own, *taken]] = 0
    best, latents = free.topk(min(count - 1, free.shape[1]), dim=1)
    return [(latent, *row[values > 0].tolist()) for latent, row, values in zip(own, latents, best, strict=True)]
