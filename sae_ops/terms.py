"""What every latent that an edit may change is told to do."""

from dataclasses import dataclass, fields

import torch

from .concepts import Concept, ConceptStatistics, term_ranges
from .erasure import STEER, Erasure


@dataclass(frozen=True)
class Terms:
    """One latent of one erasure each, by latent; all [terms]. A latent that two erasures share is two terms."""

    statistics_column: torch.Tensor
    """Its column in ConceptStatistics."""
    latent: torch.Tensor
    """Place of its latent among all that the edit may change."""
    detector: torch.Tensor
    """The term that has to fire somewhere in a map before this one moves there; itself if no other does."""
    strength: torch.Tensor
    start: torch.Tensor
    end: torch.Tensor
    multiplier: torch.Tensor
    """0 where the mode is none that multiplies."""
    turn: torch.Tensor
    turns: torch.Tensor
    clamps: torch.Tensor
    replaces: torch.Tensor
    steers: torch.Tensor
    in_cond: torch.Tensor
    in_uncond: torch.Tensor
    mask: torch.Tensor
    """Which of the masks of all erasures; None among these is everywhere."""

    def __len__(self) -> int:
        return len(self.latent)

    @property
    def detects(self) -> torch.Tensor:
        return self.detector == torch.arange(len(self))

    def are_active(self, sigma: torch.Tensor, is_cond: torch.Tensor) -> torch.Tensor:
        """Which change anything, bool [images, terms], at noise levels and in guidance halves [images]."""
        active = (sigma[:, None] <= self.start) & (sigma[:, None] >= self.end) & (self.strength > 0)
        return active & torch.where(is_cond[:, None], self.in_cond, self.in_uncond)

    def __getitem__(self, chosen: torch.Tensor) -> "Terms":
        """These terms in this order, int64, with their detectors among them; `latent` stays as it was."""
        place = torch.zeros_like(self.detector).index_copy_(0, chosen, torch.arange(len(chosen)))
        some = {field.name: getattr(self, field.name)[chosen] for field in fields(self)}
        return Terms(**{**some, "detector": place[some["detector"]]})


@dataclass(frozen=True)
class TermLevels:
    """What every term does at the noise levels of one call; all [images, terms], on a device [images, terms, 1].

    An erased latent becomes z + strength * (factor * z + offset - z) where z > gate; a strengthened one z + strength *
    added everywhere.
    """

    gate: torch.Tensor
    """Infinite where nothing is erased."""
    detection: torch.Tensor
    """Which mean over a map's positions shows the concept; 0 where any does."""
    factor: torch.Tensor
    offset: torch.Tensor
    strength: torch.Tensor
    """That of the erasure, 0 where it is not active."""
    added: torch.Tensor

    @staticmethod
    def of(terms: Terms, active: torch.Tensor, statistics: ConceptStatistics, sigma: torch.Tensor) -> "TermLevels":
        """active as of are_active, sigma [images]; on the CPU, as all others."""
        means = statistics.at(sigma, terms.statistics_column)
        return TermLevels(
            gate=means["overall"].clamp(min=0).masked_fill(~active | terms.steers, float("inf")),
            detection=means.get("detection", torch.zeros_like(means["overall"])),
            factor=torch.where(terms.turns, -terms.turn, terms.multiplier * means["with_concept"]),
            offset=means["background"] * terms.clamps,
            strength=active * terms.strength,
            added=terms.steers * means["with_concept"],
        )

    def __getitem__(self, chosen: torch.Tensor | slice) -> "TermLevels":
        """What these terms do, int64 [some] or a slice."""
        return TermLevels(*(getattr(self, field.name)[:, chosen] for field in fields(self)))

    def to(self, device: torch.device) -> "TermLevels":
        return TermLevels(*torch.stack([getattr(self, field.name) for field in fields(self)])[..., None].to(device))


def list_terms(
    concepts: tuple[Concept, ...], erasures: tuple[Erasure, ...]
) -> tuple[Terms, list[int], list[torch.Tensor | None]]:
    """The terms of these erasures on the CPU, all latents that they may change, ascending, and their masks."""
    ranges = term_ranges(concepts)
    of: list[tuple[Erasure, Concept]] = []
    columns: list[int] = []
    latents: list[int] = []
    detector: list[int] = []
    for erasure in erasures:
        concept, start = concepts[erasure.concept], len(columns)
        count = len(concept.latents)
        of += [(erasure, concept)] * count
        columns += ranges[erasure.concept]
        latents += concept.latents
        detector += [start] * count if concept.first_detects else range(start, start + count)
    distinct = sorted(set(latents))
    masks = list({id(erasure.mask): erasure.mask for erasure in erasures}.values())
    modes = [erasure.mode for erasure, _ in of]

    def floats(values):
        return torch.tensor(list(values), dtype=torch.float32)

    def bools(values):
        return torch.tensor(list(values), dtype=torch.bool)

    terms = Terms(
        statistics_column=torch.tensor(columns),
        latent=torch.tensor([distinct.index(latent) for latent in latents]),
        detector=torch.tensor(detector),
        strength=floats(erasure.strength for erasure, _ in of),
        start=floats(erasure.sigma_start for erasure, _ in of),
        end=floats(erasure.sigma_end for erasure, _ in of),
        multiplier=floats(concept.multiplier if erasure.mode == "scale" else 0 for erasure, concept in of),
        turn=floats(concept.turn for _, concept in of),
        turns=bools(mode == "turn" for mode in modes),
        clamps=bools(mode == "clamp" for mode in modes),
        replaces=bools(mode == "replace" for mode in modes),
        steers=bools(mode == STEER for mode in modes),
        in_cond=bools(erasure.branch != "uncond" for erasure, _ in of),
        in_uncond=bools(erasure.branch != "cond" for erasure, _ in of),
        mask=torch.tensor([next(i for i, mask in enumerate(masks) if mask is erasure.mask) for erasure, _ in of]),
    )
    # By latent, so that mostly each is a term's own and none has to be looked up at every step.
    return terms[terms.latent.argsort(stable=True)], distinct, masks
