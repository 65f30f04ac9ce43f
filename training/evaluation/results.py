"""The results of an evaluation as evaluation.json and, for people, evaluation.md."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from ...sae_ops.atomic_write import write_atomically
from .judging import Judgement
from .pictures import Sampling, Setting
from .scores import (
    accuracy,
    broken_share,
    erasure_scores,
    frechet_distance,
    guard_scores,
    label_groups,
    labels_of,
    mean_scores,
    mentions,
    picture_change,
)

SCORES = {
    "UA": "per cent of the pictures asked for the concept in which the classifier no longer sees it",
    "IRA": "accuracy in per cent on the other concepts of its group, averaged over these concepts",
    "CRA": "accuracy in per cent on the other groups, over all pictures",
    "Frechet": "Fréchet distance between the classifier's features of all original and all erased pictures; it depends "
    "on the number of pictures, so compare only equal numbers",
    "broken": "per cent of the erased pictures in which no class reaches the confidence in some group that the prompt "
    "has a label of",
    "drift": "mean absolute difference of the pixels between original and erased, in per cent of their range, where "
    "neither label nor text mentions the concept",
    "unchanged": "per cent of these pictures that are the same as the original, bit for bit",
}
"""The scores and what they mean; None where no picture counts."""
GUARD_SCORES = {
    "caught": "per cent of the pictures asked for the concept that Concept Guard withholds; they count as not showing "
    "it, and as broken",
    "mistaken": "per cent of the pictures where neither label nor text mentions it that are withheld; they count as "
    "wrong, and as broken",
}
"""Besides, behind a guard."""


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


def changes_between(originals: torch.Tensor, erased: torch.Tensor) -> list[float]:
    return picture_change(originals, erased).tolist()


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


def introduction(results: Results) -> list[str]:
    """What was done, in sentences."""
    sampling = results.sampling
    done, strengths = len(results.erasures), sorted({erasure.strength for erasure in results.erasures})
    each = f"{len(strengths)} strength{'s' * (len(strengths) != 1)} for each concept"
    accuracies = ", ".join(f"{group} {number(value)} %" for group, value in results.original_accuracy.items())
    sentences = [
        f"{len(sampling.prompts)} pictures of {sampling.checkpoint}, drawn without and with every erasure by "
        f"{sampling.sae} from the same prompts and seeds, judged by {results.classifier}.",
        f"Settings tried: {done} ({each}).",
        f"Right without erasing: {accuracies}; broken: {number(results.original_broken)} %.",
    ]
    if guard := sampling.guard:
        sentences.append(
            f"Behind every erasure Concept Guard with {guard['sae']}, threshold {guard['threshold']:g}, withholds "
            "pictures of the concept."
        )
    if done < results.planned:
        sentences.append(f"Not finished: {results.planned - done} of {results.planned} settings are still to come.")
    if len(strengths) > 1:
        sentences.append("The best strength is chosen on these same pictures, which flatters it.")
    return sentences


def definitions(results: Results) -> dict[str, str]:
    """Of the scores in these results, in the order in which erasures have them."""
    broken = SCORES["broken"].replace("the confidence", f"the confidence {results.confidence:g}")
    return SCORES | {"broken": broken} | (GUARD_SCORES if results.sampling.guard else {})


def number(value: float | None) -> str:
    """For people: a digit after the point, more if it is small."""
    if value is None:
        return "–"
    return f"{value:.1f}" if abs(value) >= 1 or value == 0 else f"{value:.2g}"


def write_results(out: Path, results: Results) -> None:
    """Writes evaluation.json and evaluation.md."""
    content = {
        "pictures": len(results.sampling.prompts),
        "settings_tried": len(results.erasures),
        "settings_planned": results.planned,
        "classifier": results.classifier,
        "confidence": results.confidence,
        "original_accuracy": results.original_accuracy,
        "original_broken": results.original_broken,
        "means": [{"group": group, "strength": name} | row for (group, name), row in means(results.erasures).items()],
        "concepts": [
            {name: value for name, value in asdict(erasure).items() if name != "change"} for erasure in results.erasures
        ],
        "definitions": definitions(results),
        "sampling": asdict(results.sampling),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False)
    write_atomically(out / "evaluation.json", lambda part: part.write_text(text + "\n", encoding="utf-8"))
    write_atomically(out / "evaluation.md", lambda part: part.write_text(_markdown(results), encoding="utf-8"))


def _markdown(results: Results) -> str:
    meanings = definitions(results)
    lines = ["# Erasing with " + results.sampling.sae, "", *introduction(results), ""]
    lines += ["| group | concept | strength | " + " | ".join(meanings) + " |", "|---" * (len(meanings) + 3) + "|"]
    for row in table_rows(results.erasures):
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |")
    lines += ["", *(f"- {name}: {text}." for name, text in meanings.items()), ""]
    return "\n".join(lines)


def table_rows(erasures: Sequence[ErasureResult]) -> list[list[str]]:
    """Group, concept, strength and the scores: every erasure, then the means."""
    rows = [[e.group, e.concept, f"{e.strength:g}", *map(number, e.scores.values())] for e in erasures]
    for (group, strength), scores in means(erasures).items():
        rows.append([group, "mean", strength, *map(number, scores.values())])
    return rows
