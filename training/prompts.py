"""Labelled prompts: what is sampled to collect activations, and which concepts each picture shows."""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class LabelledPrompt:
    """One prompt and the concepts in its pictures, by group, e.g. {"object": ("star",), "style": ("neon",)}."""

    prompt: str
    labels: dict[str, tuple[str, ...]]


class Labelled(Protocol):
    """A prompt or a picture with labels."""

    @property
    def labels(self) -> Mapping[str, Sequence[str]]: ...


def label_groups(labelled: Iterable[Labelled]) -> dict[str, list[str]]:
    """The groups of labels and the names in each, in the order of first appearance; none without a name."""
    groups: dict[str, dict[str, None]] = {}
    for each in labelled:
        for group, names in each.labels.items():
            groups.setdefault(group, {}).update(dict.fromkeys(names))
    return {group: list(names) for group, names in groups.items() if names}


def read_text(path: Path) -> str:
    """What a file of prompts holds. Raises OSError, or ValueError that names the file if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8 ({error}). Save it so; Excel calls that CSV UTF-8.") from error


def read_prompts(text: str) -> list[LabelledPrompt]:
    """JSON lines or CSV with a header -> prompts. "prompt" is the text, every other field a group of labels.

    JSON: {"prompt": "a star in neon style", "object": "star", "style": "neon"}; lists hold several labels.
    CSV: prompt,object,style; several labels of a field are separated by ";". Empty fields are no label. Where the
    header has no comma, tabs or ";" separate the fields; several labels are in quotes then, as Excel writes them.
    Raises ValueError that names the line.
    """
    # str.splitlines would also split at the separators, such as U+2028, that a JSON string may hold
    lines = [(number, line) for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1) if line.strip()]
    if lines and lines[0][1].lstrip().startswith("{"):
        rows = [_json_row(number, line) for number, line in lines]
    else:
        rows = _csv_rows(lines)
    if not rows:
        raise ValueError(
            "There are no prompts. Write one JSON object a line, or CSV with the header prompt,object,style."
        )
    return [_labelled(number, row) for number, row in enumerate(rows, start=1)]


def _json_row(number: int, line: str) -> dict:
    try:
        fields = json.loads(line, object_pairs_hook=tuple)  # a dict would have the last of two namesakes alone
    except json.JSONDecodeError as error:
        raise ValueError(f"Line {number} of the prompts is no JSON object ({error}): {line[:80]}") from error
    if not isinstance(fields, tuple):
        raise ValueError(f"Line {number} of the prompts is no JSON object: {line[:80]}")
    names = [name for name, _ in fields]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(
            f"Line {number} of the prompts names '{twice[0]}' twice. Put several labels of a group into a list: "
            f"{line[:80]}"
        )
    return json.loads(line)


def _csv_rows(lines: list[tuple[int, str]]) -> list[dict]:
    header = lines[0][1] if lines else ""
    separator = next((mark for mark in ",\t;" if mark in header), ",")
    text = (f"{line}\n" for _, line in lines)
    reader = csv.DictReader(text, delimiter=separator, skipinitialspace=True, strict=True)
    try:
        names = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        if lines and "prompt" not in names:
            raise ValueError(
                "The first line of the prompts must be a header such as prompt,object,style, separated by commas, or "
                f"each line a JSON object. Write a header above the prompts. The first line is: {header[:80]}"
            )
        twice = [name for name in names if name and names.count(name) > 1]
        if twice:
            raise ValueError(
                f"The header of the prompts names '{twice[0]}' twice. Put several labels of a group into one field, "
                "separated by ';'."
            )
        return list(reader)
    except csv.Error as error:
        number, line = lines[reader.line_num]  # the first line after those that have been understood
        raise ValueError(
            f"Line {number} of the prompts is neither a JSON object nor CSV ({error}). A field that begins with a "
            f"quote must end with one, right before the separator, and have those inside it doubled: {line[:80]}"
        ) from error


def _labelled(number: int, row: dict) -> LabelledPrompt:
    if not isinstance(row.get("prompt"), str):
        raise ValueError(f"Entry {number} of the prompts has no text under 'prompt': {str(row)[:80]}")
    if None in row:  # csv's key for what the header has no name for
        raise ValueError(
            f"Entry {number} of the prompts has more fields than the header. Put fields with commas, or what "
            f"else separates the fields, in quotes: {row['prompt'][:80]}"
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
        if own := tuple(name.strip() for name in names if name.strip()):
            labels[group] = own
    return LabelledPrompt(row["prompt"], labels)
