"""After training: the inference threshold, how concepts fire over noise levels, and how well they are told apart."""

import torch

from ..sae_ops.autoencoder import SparseAutoencoder
from ..sae_ops.concepts import ConceptStatistics
from .data import ConceptMaps
from .losses import fvu
from .trainer import training_latents


@torch.no_grad()
def estimate_threshold(sae: SparseAutoencoder, data: ConceptMaps, seed: int) -> None:
    """Sets batchtopk's threshold to the smallest activation kept in a training batch, averaged over 50 batches."""
    if sae.config.activation != "batchtopk":
        return
    generator = torch.Generator().manual_seed(seed)
    smallest = []
    for _ in range(50):
        z = training_latents(sae, sae.pre_acts(data.vectors(2048, generator)))
        smallest.append(z[z > 0].min())
    sae.threshold.copy_(torch.stack(smallest).mean())


@torch.no_grad()
def concept_statistics(sae: SparseAutoencoder, latents: list[int], data: ConceptMaps) -> ConceptStatistics:
    """Mean activation of each concept's latent with the concept, without it and overall, at every cached noise level.

    latents: one for each column of data.labels. Steps whose sigma is 0 do not occur in a cache.
    """
    means = torch.stack([sae.encode(image.float())[..., latents].mean(dim=1) for image in data.maps])
    sigmas, order = data.sigmas.mean(dim=0).sort()
    means = means[:, order].movedim(1, 0)  # [steps, images, concepts]
    weight = data.labels.float()
    with_concept = (means * weight).sum(dim=1) / weight.sum(dim=0).clamp(min=1)
    background = (means * (1 - weight)).sum(dim=1) / (1 - weight).sum(dim=0).clamp(min=1)
    return ConceptStatistics(sigmas, with_concept, background, means.mean(dim=1))


@torch.no_grad()
def measure(sae: SparseAutoencoder, latents: list[int], data: ConceptMaps) -> dict:
    """On data not trained on: FVU, L0, and for each concept how often its logit has the right sign, balanced."""
    vectors = data.vectors(20_000, torch.Generator().manual_seed(0))
    z = sae.encode(vectors)
    logits = torch.stack([sae.pre_acts(image.float())[..., latents].mean(dim=1) for image in data.maps])
    right = (logits > 0) == data.labels[:, None]
    with_concept = data.labels[:, None].expand_as(right)
    hit = (right & with_concept).sum(dim=(0, 1)) / with_concept.sum(dim=(0, 1)).clamp(min=1)
    spared = (right & ~with_concept).sum(dim=(0, 1)) / (~with_concept).sum(dim=(0, 1)).clamp(min=1)
    return {
        "fvu": fvu(vectors, sae.decode(z)).item(),
        "l0": (z > 0).float().sum(dim=1).mean().item(),
        "dead_latents": int((z > 0).sum(dim=0).eq(0).sum()),
        "balanced_accuracy": ((hit + spared) / 2).tolist(),
    }


@torch.no_grad()
def calibrated_multipliers(
    sae: SparseAutoencoder, latents: list[int], data: ConceptMaps, statistics: ConceptStatistics
) -> list[float]:
    """For each concept the multiplier gamma at which its own logit no longer tells that it is there.

    Moving the latent from z to z' moves the logit by (z' - z) W_enc[i] . W_dec[i]. gamma is such that a typical
    activation of the concept, z' = gamma * mu_c * z, ends as far below the mean logit of pictures without the concept
    as it stood above: mirrored, so that what the latent does not catch is made up for.
    """
    multipliers = []
    for column, latent in enumerate(latents):
        shows = data.labels[:, column]
        logits = [sae.pre_acts(part.flatten(0, 2).float())[:, latent] for part in (data.maps[shows], data.maps[~shows])]
        if not (logits[0] > 0).any() or not statistics.with_concept[:, column].any():
            multipliers.append(-1.0)  # the latent never fires: nothing to go by
            continue
        typical, background = logits[0][logits[0] > 0].mean(), logits[1].mean()
        gain = (sae.W_enc[latent] @ sae.W_dec[latent]).clamp(min=0.1)
        target = typical - 2 * (typical - background) / gain
        multipliers.append((target / typical / statistics.with_concept[:, column].mean()).item())
    return multipliers
