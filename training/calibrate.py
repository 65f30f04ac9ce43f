"""After training: the inference threshold, how concepts fire over noise levels, and how strongly to erase them."""

from collections.abc import Iterator

import torch

from ..sae_ops.autoencoder import SparseAutoencoder
from ..sae_ops.concepts import ConceptStatistics
from .assign import LatentMeans
from .sparse import kept_latents

THRESHOLD_BATCHES = 50


@torch.no_grad()
def estimate_threshold(sae: SparseAutoencoder, batches: Iterator[torch.Tensor]) -> None:
    """Sets batchtopk's threshold to the smallest activation kept in a training batch, averaged over batches.

    batches: activation vectors [batch, d]. In fp32, as encode() works. (BatchTopK, arXiv 2412.06410.) Raises ValueError
    if no latent fires.
    """
    if sae.config.activation != "batchtopk":
        return
    smallest: list[torch.Tensor] = []
    for _, vectors in zip(range(THRESHOLD_BATCHES), batches):  # noqa: B905 (the batches never end)
        values = kept_latents(sae, sae.normalise(vectors.to(sae.W_enc.device)), torch.float32).values
        smallest += values[values > 0].sort().values[:1]
    if not smallest:
        raise ValueError("No latent of the SAE fires any more. Train with a smaller --learning-rate.")
    sae.threshold.copy_(torch.stack(smallest).mean())


def concept_statistics(
    means: LatentMeans, sigmas: torch.Tensor, latents: list[tuple[int, ...]], guided: bool = False
) -> ConceptStatistics:
    """What the means say about the latents of each concept; sigmas [levels], ascending, those of the means.

    guided: all but the first of each concept carry what its name brings and nothing else, so they have no gate.
    """
    owners = [(concept, latent) for concept, own in enumerate(latents) for latent in own]
    concepts, columns = (torch.tensor(index) for index in zip(*owners, strict=True))
    shown, without = (table[concepts, :, columns].T.contiguous() for table in (means.with_concept, means.without))
    gates = means.overall[:, columns].contiguous()
    if guided:
        gates[:, [latent != latents[concept][0] for concept, latent in owners]] = 0
    return ConceptStatistics(sigmas, shown, without, gates)


def typical_multiplier(means: LatentMeans, concept: int, latent: int, turn: float) -> float:
    """The gamma with which `scale` does what `turn` does: gamma * mu(sigma, D_c) is -turn on average over noise levels.

    -turn for a latent that never fires.
    """
    typical = float(means.with_concept[concept, :, latent].mean())
    return -turn / (typical or 1.0)
