"""Shows how far a training is: bars for people, or lines of JSON for programs."""

import time
from collections.abc import Callable
from typing import Protocol

from tqdm import tqdm

from ..phases import OF_PICTURES
from ..progress import progress_line

CHECK = "check shards"
"""The phase before training; its steps are bytes."""
UNITS: dict[str, dict] = {
    CHECK: {"unit": "B", "unit_scale": True, "leave": False},
    **dict.fromkeys(OF_PICTURES, {"unit": "picture", "leave": False}),
}


class TrainProgress(Protocol):
    """What `sae-eraser train` calls while it works."""

    def show(self, phase: str, done: int, total: int, numbers: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class Bars:
    """One progress line for each phase: steps, vectors a second, and the numbers of the first SAE."""

    def __init__(self, speaks: bool):
        self._speaks = speaks
        self._phase, self._bar, self._seen = "", tqdm(disable=True), (0, 0.0)

    def show(self, phase: str, done: int, total: int, numbers: dict[str, float]) -> None:
        now = time.monotonic()
        if phase != self._phase:
            self._bar.close()
            self._phase, self._seen = phase, (done, now)
            unit = UNITS.get(phase, {"unit": "step"})
            self._bar = tqdm(total=total, initial=done, desc=phase, disable=not self._speaks, **unit)
        shown = {name: f"{value:.4g}" for name, value in numbers.items() if name != "vectors"}
        if "vectors" in numbers and now > self._seen[1]:
            rate = (done - self._seen[0]) * numbers["vectors"] / (now - self._seen[1])
            shown["vectors/s"] = f"{rate:,.0f}"
        self._seen = (done, now)
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()


class Lines:
    """Every progress as a line of JSON on stdout."""

    def __init__(self, speaks: bool):
        self._speaks = speaks

    def show(self, phase: str, done: int, total: int, numbers: dict[str, float]) -> None:
        if self._speaks:
            print(progress_line(phase, done, total, numbers), flush=True)

    def close(self) -> None:
        pass


PROGRESS: dict[str, Callable[[bool], TrainProgress]] = {"bars": Bars, "json": Lines}
"""Called with whether this process speaks."""
