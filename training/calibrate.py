"""After training: the inference threshold, how concepts fire over noise levels, and how strongly to erase them."""

from collections.abc import Iterator

import torch

from ..sae_ops.autoencoder import SparseAutoencoder
from ..sae_ops.concepts import ConceptStatistics
from .assign import latent_means
from .data import LabelledImages
from .sparse import kept_latents

DEPTH = 4.0
"""Measured in ShapeCanvas: at 1 most objects stay visible, at 10 some come back."""


@torch.no_grad()
def estimate_threshold(sae: SparseAutoencoder, batches: Iterator[torch.Tensor], count: int = 50) -> None:
    """Sets batchtopk's threshold to the smallest activation kept in a training batch, averaged over `count` batches.

    batches: activation vectors [batch, d]. In fp32, as encode() works. (BatchTopK, arXiv 2412.06410.)
    """
    if sae.config.activation != "batchtopk":
        return
    smallest: list[torch.Tensor] = []
    for _, vectors in zip(range(count), batches):  # noqa: B905 (the batches never end)
        values = kept_latents(sae, sae.normalise(vectors.to(sae.W_enc.device)), torch.float32).values
        smallest += values[values > 0].sort().values[:1]
    if not smallest:
        raise ValueError("No latent of the SAE fires any more. Train with a smaller --learning-rate.")
    sae.threshold.copy_(torch.stack(smallest).mean())


def concept_statistics(sae: SparseAutoencoder, latents: list[int], images: LabelledImages) -> ConceptStatistics:
    """Mean activation of each concept's latent with the concept, without it and overall, at every cached noise level.

    latents: one for each concept of images.labels.
    """
    means = latent_means(sae, images, latents)
    levels, _ = images.levels()
    with_concept, without = (
        table.diagonal(dim1=0, dim2=2).contiguous() for table in (means.with_concept, means.without)
    )
    return ConceptStatistics(levels, with_concept, without, means.overall)


@torch.no_grad()
def calibrated_multipliers(
    sae: SparseAutoencoder, latents: list[int], images: LabelledImages, statistics: ConceptStatistics
) -> list[float]:
    """For each concept the multiplier gamma that turns its own logit well around.

    Moving the latent from z to z' moves the logit by (z' - z) W_enc[i] . W_dec[i]. gamma is such that a typical
    activation of the concept, z' = gamma * mu_c * z, ends DEPTH times as far below the mean logit of pictures without
    the concept as it stood above, so that what the latent does not catch is made up for.
    """
    fired, firings = torch.zeros(len(latents)), torch.zeros(len(latents))  # positions of pictures with the concept
    quiet, positions = torch.zeros(len(latents)), torch.zeros(len(latents))  # positions of pictures without it
    for maps, labels in images:
        logits = sae.pre_acts(maps.flatten(0, 1).to(sae.W_enc.device))[:, latents].cpu()
        fired += labels * logits.relu().sum(dim=0)
        firings += labels * (logits > 0).sum(dim=0)
        quiet += ~labels * logits.sum(dim=0)
        positions += ~labels * len(logits)
    multipliers = []
    for column, latent in enumerate(latents):
        if not firings[column] or not statistics.with_concept[:, column].any():
            multipliers.append(-1.0)  # the latent never fires: nothing to go by
            continue
        typical, background = fired[column] / firings[column], quiet[column] / positions[column].clamp(min=1)
        gain = (sae.W_enc[latent] @ sae.W_dec[latent]).clamp(min=0.1).cpu()
        target = typical - (1 + DEPTH) * (typical - background) / gain
        multipliers.append((target / typical / statistics.with_concept[:, column].mean()).item())
    return multipliers
