"""Shows how far a training is: at its node as bar, text and curves, and in the terminal."""

import math
import time

import comfy.utils
from tqdm import tqdm

from ...training.progress import progress_bar, read_progress_line
from ..node_texts import say_at_node
from .curves import Curve, draw_curves

CURVES = {"fvu": "FVU", "accuracy": "accuracy"}
"""The numbers that are drawn, and what they are called."""
SECONDS_PER_PICTURE = 1.0


class TrainDisplay:
    """Shows how far one training is; a context manager."""

    def __init__(self, name: str, phases: dict[str, int], node_id: str | None):
        """phases: the steps of each, in their order."""
        self._name, self._phases, self._node_id = name, phases, node_id
        self.curves: dict[tuple[str, str], Curve] = {}
        """By phase and number."""
        self.text: list[str] = []
        """What the training printed for people."""
        self._phase, self._began, self._drawn = "", (0, 0.0), -math.inf

    def __enter__(self) -> "TrainDisplay":
        steps = sum(self._phases.values())
        self._bar, self._node_bar = progress_bar(steps), comfy.utils.ProgressBar(steps)
        return self

    def __exit__(self, *error) -> None:
        self._bar.close()

    def read(self, line: str) -> None:
        """A line that `sae-eraser train --progress json` has printed."""
        progress = read_progress_line(line)
        if progress is None:
            self.text.append(line)
        else:
            self._show(**progress)

    def _show(self, phase: str, done: int, total: int, numbers: dict[str, float]) -> None:
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._began = phase, (done, now)
        if phase not in self._phases:
            self._say(f"{phase}: {done / max(1, total):.0%}")
            return
        for name, title in CURVES.items():
            if math.isfinite(numbers.get(name, math.nan)):
                curve = self.curves.setdefault((phase, name), Curve(f"{phase}, {title}", total))
                curve.points.append((done, numbers[name]))
        preview = None
        if now - self._drawn > SECONDS_PER_PICTURE:
            preview, self._drawn = ("JPEG", draw_curves(list(self.curves.values())), None), now
        measured = "".join(f", {title} {numbers[name]:.3g}" for name, title in CURVES.items() if name in numbers)
        steps = done - self._began[0]
        left = (total - done) * (now - self._began[1]) / steps if steps else 0
        rest = f", {tqdm.format_interval(round(left))} left" if steps else ""
        self._bar.n = self._done_before(phase) + done
        self._say(f"{phase}: step {done} of {total}{measured}{rest}")
        self._node_bar.update_absolute(self._bar.n, preview=preview)

    def _done_before(self, phase: str) -> int:
        return sum(list(self._phases.values())[: list(self._phases).index(phase)])

    def _say(self, text: str) -> None:
        self._bar.set_description_str(f"{self._name}: {text}")
        say_at_node(text, self._node_id)
