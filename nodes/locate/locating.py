"""Locates a concept: exchanges every block alone, all together, and then the best ones added up."""

from collections.abc import Callable
from dataclasses import dataclass

from .locate_inputs import Range
from .locate_results import Exchanged

CANDIDATES = 6
"""Of the blocks that move the concept most alone without breaking pictures, so many are tried in combinations."""
ENOUGH = 0.95
"""A concept that moves along in this share of the pictures, which stay whole, cannot slip past the exchanged blocks."""


@dataclass(frozen=True)
class Located:
    """All that the report shows."""

    alone: tuple[tuple[Exchanged, ...], ...]
    """Of every hookpoint, in the order in which they run: one measurement for each range."""
    together: Exchanged
    """All hookpoints at once, in the first range."""
    best: tuple[Exchanged, ...]
    """In the first range: the best hookpoint, then with one more, and so on."""

    @property
    def chosen(self) -> Exchanged:
        """The best of these; of those that are alike the one with the fewest hookpoints."""
        return max(self.best, key=_rank)


def locate(
    measure: Callable[[tuple[str, ...], Range], Exchanged], names: list[str], ranges: list[Range], largest: int
) -> Located:
    """Measures every hookpoint alone in every range, and all of them and the best combinations in the first range.

    measure(names of the hookpoints that are exchanged together, when) -> what moved; names as they run.

    To the best combination so far each of the other CANDIDATES is added in turn, and the best of these is kept, until
    the concept cannot slip past it (ENOUGH) or it has `largest` hookpoints. Of those that are alike the one
    with the better hookpoint alone is the best, and of hookpoints that are alike the one that runs first.
    """
    alone = tuple(tuple(measure((name,), when) for when in ranges) for name in names)
    together = measure(tuple(names), ranges[0])
    ranked = sorted((row[0] for row in alone), key=_rank, reverse=True)  # those that are alike stay as they run
    best = [ranked[0]]
    while len(best) < largest and _rank(best[-1]) < ENOUGH:
        chosen = best[-1].hookpoints
        added = [one.hookpoints[0] for one in ranked[:CANDIDATES] if one.hookpoints[0] not in chosen]
        if not added:
            break
        combinations = [tuple(n for n in names if n in (*chosen, name)) for name in added]
        best.append(max((measure(combination, ranges[0]) for combination in combinations), key=_rank))
    return Located(alone, together, tuple(best))


def most_exchanges(hookpoints: int, ranges: int, largest: int) -> int:
    """How often `locate` measures at most."""
    candidates = min(CANDIDATES, hookpoints)
    return hookpoints * ranges + 1 + sum(candidates - size for size in range(1, min(largest, candidates)))


def _rank(measurement: Exchanged) -> float:
    return measurement.moved.whole
