"""The results of an evaluation: the scores of every erasure, and their means."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..prompts import label_groups
from .judging import Judgement, read_in_parts
from .pictures import ORIGINAL, Sampling, Setting, picture_files
from .scores import (
    accuracy,
    broken_share,
    erasure_scores,
    frechet_distance,
    guard_scores,
    labels_of,
    mean_scores,
    mentions,
    picture_change,
)


@dataclass(frozen=True)
class ErasureResult:
    """One concept erased at one strength."""

    group: str
    concept: str
    """As the SAE lists it."""
    strength: float
    scores: dict[str, float | None]
    before: dict[str, float | None]
    """UA, IRA and CRA of the originals: what the classifier and the model get wrong without any erasure."""
    change: list[float] = field(repr=False)
    """picture_change of every picture."""


@dataclass(frozen=True)
class Results:
    """What is known so far."""

    sampling: Sampling
    classifier: str
    """As pages show it, without folders."""
    confidence: float
    original_accuracy: dict[str, float | None]
    """By group, in per cent."""
    original_broken: float
    planned: int
    """Settings that are to be tried."""
    erasures: list[ErasureResult]


def measure_originals(sampling: Sampling, classifier: str, confidence: float, planned: int, said: Judgement) -> Results:
    """Results without an erasure yet."""
    everything = range(len(sampling.prompts))
    right = {
        group: accuracy(sampling.prompts, said.seen(group), group, everything)
        for group in label_groups(sampling.prompts)
    }
    shares = {group: None if share is None else 100 * share for group, share in right.items()}
    broken = broken_share(sampling.prompts, said.sure(), confidence)
    return Results(sampling, classifier, confidence, shares, broken, planned, [])


def measure_erasure(
    results: Results,
    setting: Setting,
    originals: Judgement,
    erased: Judgement,
    changes: list[float],
) -> ErasureResult:
    """The scores of one setting; changes: picture_change of every picture."""
    prompts = results.sampling.prompts
    assert setting.concept is not None
    groups = label_groups(prompts)
    group, concept = labels_of(groups, setting.concept)[0]
    seen_before, seen = ({group: said.seen(group) for group in groups} for said in (originals, erased))
    elsewhere = [change for prompt, change in zip(prompts, changes, strict=True) if not mentions(prompt, concept)]
    scores = {
        **erasure_scores(prompts, seen, group, concept),
        "Frechet": None
        if originals.features is None or erased.features is None or len(prompts) < 2
        else frechet_distance(originals.features, erased.features),
        "broken": broken_share(prompts, erased.sure(), results.confidence),
        "drift": sum(elsewhere) / len(elsewhere) if elsewhere else None,
        "unchanged": 100 * sum(change == 0 for change in elsewhere) / len(elsewhere) if elsewhere else None,
    }
    if results.sampling.guard:
        scores |= guard_scores(prompts, erased.withheld, group, concept)
    before = erasure_scores(prompts, seen_before, group, concept)
    return ErasureResult(group, setting.concept, setting.strength, scores, before, changes)


def picture_changes(out: Path, sampling: Sampling, setting: Setting) -> list[float]:
    """picture_change of every picture of the setting, which must be there as the originals must. Raises OSError."""
    before, after = (read_in_parts(picture_files(out, sampling, which)) for which in (ORIGINAL, setting))
    return [change for pair in zip(before, after, strict=True) for change in picture_change(*pair).tolist()]


def means(erasures: Sequence[ErasureResult]) -> dict[tuple[str, str], dict[str, float | None]]:
    """The scores averaged over concepts, by group and strength; with several strengths also for the best of each.

    The best strength of a concept has the highest mean of UA, IRA and CRA.
    """
    groups = list(dict.fromkeys(erasure.group for erasure in erasures))
    strengths = sorted({erasure.strength for erasure in erasures})
    found = {}
    for group in groups:
        of_group = [erasure for erasure in erasures if erasure.group == group]
        for strength in strengths:
            rows = [erasure.scores for erasure in of_group if erasure.strength == strength]
            if rows:
                found[group, f"{strength:g}"] = mean_scores(rows)
        if len(strengths) > 1:
            found[group, "best"] = mean_scores([erasure.scores for erasure in best(of_group)])
    return found


def best(erasures: Sequence[ErasureResult]) -> list[ErasureResult]:
    """The erasure of every concept with the highest mean of UA, IRA and CRA."""
    chosen: dict[str, ErasureResult] = {}
    for erasure in erasures:
        if erasure.concept not in chosen or _overall(erasure) > _overall(chosen[erasure.concept]):
            chosen[erasure.concept] = erasure
    return list(chosen.values())


def _overall(erasure: ErasureResult) -> float:
    known = [score for name in ("UA", "IRA", "CRA") if (score := erasure.scores[name]) is not None]
    return sum(known) / len(known)
