"""The results of an evaluation in words: as evaluation.json and, for people, evaluation.md."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ...sae_ops.atomic_write import write_atomically
from .results import ErasureResult, Results, means

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
