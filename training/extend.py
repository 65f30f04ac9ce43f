"""Adding concepts to a finished SAE: it must fit the cache, and only latents that carry no concept may change."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ..sae_ops.autoencoder import SparseAutoencoder
from ..sae_ops.concepts import ConceptStatistics
from ..sae_ops.sae_file import SAEHeader, load_sae
from .cache.reader import Cache


@dataclass(frozen=True)
class Base:
    """The SAE to which concepts are added."""

    path: Path
    sae: SparseAutoencoder
    header: SAEHeader
    statistics: ConceptStatistics

    def free_latents(self) -> torch.Tensor:
        """bool [n]: those that carry no concept."""
        free = torch.ones(self.header.autoencoder.n_latents, dtype=torch.bool)
        free[[latent for concept in self.header.concepts for latent in concept.latents]] = False
        return free


def open_base(path: Path, cache: Cache, hookpoint: str) -> Base:
    """Raises SAEFileError if it cannot be read, ValueError if it was trained on something else than the cache or cannot
    erase."""
    base = Base(path, *load_sae(path))
    settings, header = cache.settings, base.header
    if unsupported := header.autoencoder.unsupported:
        raise ValueError(
            f"The SAE to extend cannot erase: its {unsupported} is not supported in edits. Train a new one."
        )
    *_, width = cache.shape(hookpoint)
    for its, ours in (
        (header.hookpoint, hookpoint),
        (header.model_family, settings.model_family),
        (f"the blocks' {header.hooked}", f"the blocks' {settings.hooked}"),
        (f"the branch {header.branch}", "the branch cond"),
        (f"width {header.autoencoder.d_in}", f"width {width}"),
    ):
        if its != ours:
            raise ValueError(
                f"The SAE to extend belongs to {its}, not to {ours}. Choose an SAE or a cache that fits, or train a "
                "new one without --extend."
            )
    return base


def joined(first: ConceptStatistics, second: ConceptStatistics) -> ConceptStatistics:
    """Statistics of the concepts of both, on the noise levels of both.

    If both spare look-alikes, but learned from maps of other sizes, the first go on as they were, and the second are
    found as before in maps of their size.
    """
    sigmas = torch.cat([first.sigmas, second.sigmas]).unique()

    def table(statistics: ConceptStatistics) -> dict[str, torch.Tensor]:
        return statistics.at(sigmas, torch.arange(statistics.with_concept.shape[1]))

    one, other = table(first), table(second)
    if one.keys() != other.keys():  # one of them spares look-alikes
        for own in (one, other):
            own.setdefault("detection", torch.zeros_like(own["overall"]))
    if first.positions is not None and second.positions is not None:
        other["detection"] *= (second.positions / first.positions).clamp(min=1)
    return ConceptStatistics(
        sigmas,
        **{name: torch.cat([one[name], other[name]], dim=1) for name in one},
        positions=second.positions if first.positions is None else first.positions,
    )
