"""Labelled prompts: what is sampled to collect activations, and which concepts each picture shows."""

import csv
import io
import json
from dataclasses import dataclass


@dataclass(frozen=True)
class LabelledPrompt:
    """One prompt and the concepts in its pictures, by group, e.g. {"object": ("star",), "style": ("neon",)}."""

    prompt: str
    labels: dict[str, tuple[str, ...]]


def read_prompts(text: str) -> list[LabelledPrompt]:
    """JSON lines or CSV with a header -> prompts. "prompt" is the text, every other field a group of labels.

    JSON: {"prompt": "a star in neon style", "object": "star", "style": "neon"}; lists hold several labels.
    CSV: prompt,object,style; several labels of a field are separated by ";". Empty fields are no label.
    Raises ValueError that names the line.
    """
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if lines and lines[0][1].lstrip().startswith("{"):
        rows = [_json_row(number, line) for number, line in lines]
    else:
        rows = list(csv.DictReader(io.StringIO("\n".join(line for _, line in lines)), skipinitialspace=True))
    if not rows:
        raise ValueError(
            "There are no prompts. Write one JSON object a line, or CSV with the header prompt,object,style."
        )
    return [_labelled(number, row) for number, row in enumerate(rows, start=1)]


def _json_row(number: int, line: str) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"Line {number} of the prompts is no JSON object ({error}): {line[:80]}") from error
    if not isinstance(row, dict):
        raise ValueError(f"Line {number} of the prompts is no JSON object: {line[:80]}")
    return row


def _labelled(number: int, row: dict) -> LabelledPrompt:
    if not isinstance(row.get("prompt"), str):
        raise ValueError(f"Entry {number} of the prompts has no text under 'prompt': {str(row)[:80]}")
    if None in row:  # csv's key for what the header has no name for
        raise ValueError(
            f"Entry {number} of the prompts has more fields than the header. Put prompts with commas in quotes: "
            f"{row['prompt'][:80]}"
        )
    labels = {}
    for group, value in row.items():
        if group == "prompt" or not value:
            continue
        names = value.split(";") if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"Entry {number} of the prompts: '{group}' must be a name or a list of names, not {value!r}."
            )
        labels[group] = tuple(name.strip() for name in names if name.strip())
    return LabelledPrompt(row["prompt"], labels)
