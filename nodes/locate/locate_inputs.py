"""Reads what is typed into Locate Concept: pairs of prompts, hookpoints, ranges of the sampling."""

from dataclasses import dataclass

from ...sae_ops.hookpoints import Hookpoint, HookpointError


@dataclass(frozen=True)
class Range:
    """A part of the sampling, 0 to 1, as start_percent and end_percent of the erase nodes."""

    start: float
    end: float

    def __str__(self) -> str:
        return f"{100 * self.start:g}-{100 * self.end:g} %"


def read_pairs(text: str) -> list[tuple[str, str]]:
    """Lines "a star in neon style | a circle in neon style" -> pairs. Raises ValueError that names the line."""
    pairs = []
    for number, line in enumerate(text.splitlines(), start=1):
        prompts = [prompt.strip() for prompt in line.split("|")]
        if prompts == [""]:
            continue
        if len(prompts) != 2 or not all(prompts) or prompts[0] == prompts[1]:
            raise ValueError(
                f"Line {number} of the pairs is not two different prompts with a | between them: {line[:80]}"
            )
        pairs.append((prompts[0], prompts[1]))
    if not pairs:
        raise ValueError("There are no pairs. Write one a line: a star in neon style | a circle in neon style")
    return pairs


def read_ranges(text: str) -> list[Range]:
    """ "0-1, 0-0.33" -> ranges. Raises ValueError."""
    ranges = []
    for part in text.split(","):
        try:
            start, end = (float(number) for number in part.split("-"))
        except ValueError:
            start, end = 1.0, 0.0
        if not 0 <= start < end <= 1:
            raise ValueError(
                f"'{part.strip()}' is no range of the sampling. Write its start and end between 0 and 1, such as 0-0.5."
            )
        ranges.append(Range(start, end))
    return list(dict.fromkeys(ranges))


def choose_hookpoints(text: str, known: list[Hookpoint]) -> list[Hookpoint]:
    """The hookpoints that the text names, or whose name has one of its words in it, in the order in which they run.

    Raises HookpointError, which lists those that the model has, for a word that fits none.
    """
    chosen: set[Hookpoint] = set()
    for word in (word.strip() for word in text.split(",")):
        exact = [point for point in known if word in (point.name, point.path)]
        fitting = exact or [point for point in known if word and word in point.name]
        if word and not fitting:
            names = ", ".join(point.name for point in known)
            raise HookpointError(f"No hookpoint of this model has '{word}' in its name. It has: {names}.")
        chosen.update(fitting)
    if not chosen:
        raise HookpointError("No hookpoint is named. Write for example attentions, or up_blocks.1.attentions.1.")
    return [point for point in known if point in chosen]
