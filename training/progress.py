"""How a collection or a training shows how far it is, in the terminal and to who asks for it."""

import json

from tqdm import tqdm

PROGRESS_PATH = "/sae_eraser/progress"
"""Where the pack answers with the name, done, images and text of what collects or locates now; {} if nothing does."""


def progress_bar(total: int) -> tqdm:
    """One line whose description says everything."""
    return tqdm(total=total, bar_format="{percentage:3.0f}%|{bar:20}| {desc}")


def progress_line(phase: str, done: int, total: int, numbers: dict[str, float]) -> str:
    """What `sae-eraser train --progress json` prints: the phase, steps done and in all, and what is measured."""
    return json.dumps({"phase": phase, "done": done, "total": total, "numbers": numbers})


def read_progress_line(line: str) -> dict | None:
    """The fields of such a line; None if it is text for people, which is printed among them."""
    try:
        return json.loads(line) if line.startswith('{"phase"') else None
    except ValueError:
        return None
