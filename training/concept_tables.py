"""SAeUron's and SAEmnesia's concept tables as concepts of an SAE file.

A table holds for every concept how strongly each latent fires, averaged over positions: [prompts, steps, latents]. A
settings file holds for every concept its percentile and multiplier. (SAeUron, arXiv 2501.18052.)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..sae_ops.concepts import Concept, ConceptStatistics
from ..sae_ops.formats.checkpoint import is_plain
from ..sae_ops.formats.restricted_pickle import read_pickle
from .assign import LatentMeans, latent_scores

SHUT = 1e9
"""A gate that no latent passes, at noise levels where the latent was not chosen."""


@dataclass(frozen=True)
class Settings:
    """Which latents carry a concept and how strongly they are pushed away; by default as for SAeUron's styles.

    Raises ValueError if the percentile leaves no latents, or if the multiplier does not push them away.
    """

    percentile: float = 99.999
    """At each step the latents whose score exceeds this percentile of all scores."""
    multiplier: float = -1.0

    def __post_init__(self):
        if not 0 <= self.percentile < 100:
            raise ValueError(f"The percentile is {self.percentile:g}, but must be at least 0 and below 100.")
        if not -math.inf < self.multiplier <= 0:
            raise ValueError(
                f"The multiplier is {self.multiplier:g}, but must be a finite number up to 0: a positive one leaves "
                "the concept in, or strengthens it."
            )


def ddim_sigmas(steps: int) -> torch.Tensor:
    """Noise levels of Stable Diffusion's DDIM steps, in the order in which they run [steps].

    Assumes what diffusers' DDIMScheduler is set to in Stable Diffusion 1.x: 1000 training steps with betas linear in
    their roots from 0.00085 to 0.012, "leading" spacing and steps_offset 1.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    remaining = (1 - betas).cumprod(dim=0)
    timesteps = torch.arange(steps - 1, -1, -1) * (1000 // steps) + 1
    return ((1 - remaining[timesteps]) / remaining[timesteps]).sqrt().float()


def read_table(path: Path, n_latents: int) -> tuple[list[str], LatentMeans]:
    """Names of the concepts, and means with steps in ascending order of noise. Raises ValueError.

    `overall` is the mean of the concepts' means, as in SAeUron's code.
    """
    table = read_pickle(path)
    wanted = f"{path} should hold for each concept a tensor [prompts, steps, {n_latents}]"
    if not isinstance(table, Mapping) or len(table) < 2:
        raise ValueError(f"{wanted}, and at least two concepts. Choose the table that was made with this SAE.")
    shown: list[torch.Tensor] = []
    prompts = []
    for name, latents in table.items():
        shape = tuple(latents.shape) if is_plain(path, str(name), latents) else type(latents).__name__
        if not isinstance(name, str) or len(shape) != 3 or shape[0] == 0 or shape[2] != n_latents:
            raise ValueError(f"{wanted}, but '{name}' is {shape}. Choose the table that was made with this SAE.")
        if shown and shape[1] != len(shown[0]):
            raise ValueError(
                f"{path}: '{name}' has {shape[1]} steps, but the concept before it "
                f"{len(shown[0])}. Choose the table that was made with this SAE."
            )
        if not name.strip():
            raise ValueError(
                f"{path}: the name of a concept is '{name}', so that nobody could choose it. Save the table again with "
                "a name for it, or without it."
            )
        mean = latents.float().mean(dim=0)
        if not torch.isfinite(mean).all():
            raise ValueError(f"{path}: the table of '{name}' holds NaN or infinity. Download or make it again.")
        shown.append(mean.flip(0))
        prompts.append(len(latents))
    if not 0 < len(shown[0]) < 1000:  # the last of as many is past the end
        raise ValueError(
            f"{path} has {len(shown[0])} steps, but must have between 1 and 999. Choose the table that was made with "
            "this SAE."
        )
    counted = list(zip(shown, prompts, strict=True))
    total = torch.zeros(shown[0].shape, dtype=torch.float64)  # in fp32 roundings would tell apart what is alike
    for mean, count in counted:
        total.add_(mean, alpha=count)
    without = [total.sub(mean, alpha=count).div(sum(prompts) - count).clamp(min=0).float() for mean, count in counted]
    with_concept = torch.stack(shown)
    return list(table), LatentMeans(with_concept, torch.stack(without), with_concept.mean(dim=0))


def read_settings(path: Path) -> dict[str, Settings]:
    """{concept: its settings}. Raises ValueError."""
    read = read_pickle(path)
    if not isinstance(read, Mapping):
        raise ValueError(
            f"{path} should hold a percentile and a multiplier for each concept. Choose another --settings."
        )
    return {str(name): _settings_of(path, name, fields) for name, fields in read.items()}


def _settings_of(path: Path, name: Any, fields: Any) -> Settings:
    try:
        return Settings(float(fields["percentile"]), float(fields["multiplier"]))
    except (LookupError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} should hold a percentile and a multiplier for each concept, but '{name}' has none of use "
            f"({error}). Choose another --settings."
        ) from error


def concepts_of_table(
    path: Path, n_latents: int, group: str, settings: dict[str, Settings], default: Settings
) -> tuple[tuple[Concept, ...], ConceptStatistics]:
    """Concepts whose latents are the ones that SAeUron edits, at the noise levels at which it edits them.

    Raises ValueError if the table is none, or if there are settings for a concept that it lacks.
    """
    names, means = read_table(path, n_latents)
    if unknown := settings.keys() - set(names):
        raise ValueError(f"{path} has no concept '{min(unknown)}', for which there are settings. It has: {names}.")
    chosen = {name: settings.get(name, default) for name in names}
    sigmas = ddim_sigmas(means.overall.shape[0]).flip(0)
    try:
        return select_concepts(means, sigmas, group, chosen)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def select_concepts(
    means: LatentMeans, sigmas: torch.Tensor, group: str, settings: dict[str, Settings]
) -> tuple[tuple[Concept, ...], ConceptStatistics]:
    """SAeUron's concepts: at every noise level the latents whose score exceeds a percentile of all scores there.

    sigmas [levels], ascending, those of the means; settings: those of every concept, in the order of the means.
    Raises ValueError if no latent tells a concept from the others.
    """
    steps = means.overall.shape[0]
    level_by_level = [
        latent_scores(LatentMeans(means.with_concept[:, [step]], means.without[:, [step]], means.overall[[step]]))
        for step in range(steps)
    ]
    scores = torch.stack(level_by_level, dim=1)  # [concepts, steps, latents]
    concepts, columns, chosen = [], [], []
    for index, (name, own) in enumerate(settings.items()):
        if not (scores[index] > 0).any():
            raise ValueError(
                f"No latent fires more for '{name}' than for the other concepts, so that none can carry it. Choose the "
                "table that was made with this SAE, or save it again without this concept."
            )
        selected = torch.stack([step > torch.quantile(step, own.percentile / 100) for step in scores[index]])
        latents = selected.any(dim=0).nonzero()[:, 0]
        if not len(latents):
            raise ValueError(f"No latent tells '{name}' from the others. Lower the percentile.")
        facts = {"percentile": own.percentile, "score": float(scores[index, :, latents].mean(dim=0).max())}
        concepts.append(Concept(name, group, tuple(latents.tolist()), own.multiplier, facts=facts))
        columns.append(
            [table[:, latents] for table in (means.with_concept[index], means.without[index], means.overall)]
        )
        chosen.append(selected[:, latents])
    shown, background, overall = (torch.cat(parts, dim=1) for parts in zip(*columns, strict=True))
    return tuple(concepts), _gated(sigmas, shown, background, overall, torch.cat(chosen, dim=1))


def _gated(
    sigmas: torch.Tensor,
    with_concept: torch.Tensor,
    background: torch.Tensor,
    overall: torch.Tensor,
    chosen: torch.Tensor,
) -> ConceptStatistics:
    """Statistics [levels, terms] whose gate is shut where a term is not chosen (bool, likewise).

    Where a choice changes between two levels, two more levels close to the middle make the nearer one decide.
    """
    levels, rows = [sigmas[:1]], [0]
    for upper in range(1, len(sigmas)):
        if (chosen[upper] != chosen[upper - 1]).any():
            middle = (sigmas[upper - 1] * sigmas[upper]).sqrt()
            levels += [middle * (1 - 1e-5), middle * (1 + 1e-5)]
            rows += [upper - 1, upper]
        levels.append(sigmas[upper])
        rows.append(upper)
    grid = torch.stack([level.reshape(()) for level in levels])
    at = ConceptStatistics(sigmas, with_concept, background, overall).at(grid, torch.arange(overall.shape[1]))
    gate = at["overall"].masked_fill(~chosen[rows], SHUT)
    return ConceptStatistics(grid, at["with_concept"], at["background"], gate)
