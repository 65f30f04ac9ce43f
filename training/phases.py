"""The two training phases, each a loop over batches that can be stopped at any step and goes on where it was."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from . import distributed
from .checkpoint import Checkpoints
from .config import TrainingConfig
from .learner import Learner

Step = Callable[[int, Any, float], dict[str, torch.Tensor]]
"""(which learner, batch, how much of the phase is over) -> numbers; makes one step."""
Validate = Callable[[int], dict[str, float]]
"""which learner -> numbers on images held out; "loss" among them, by which the best weights are kept."""
Progress = Callable[[str, int, int, dict[str, float]], None]
"""Called with the phase's name, steps done, steps in all, and the numbers to show."""

RECONSTRUCT, SUPERVISE, FINISHED = "reconstruct", "supervise", "finished"
CHOOSE, COMPARE, STATISTICS, LOOK_ALIKES, MEASURE = OF_PICTURES = (
    "choose latents",
    "compare concepts",
    "statistics",
    "look-alikes",
    "measure",
)
"""What goes before and after the second phase, picture by picture."""


@dataclass
class Track:
    """What a run remembers of one learner."""

    history: list[dict] = field(default_factory=list)
    """One entry a validation: phase, step and the numbers of training and validation."""
    best_loss: float = float("inf")
    best: dict[str, torch.Tensor] | None = None
    worse: int = 0
    """Validations since the best one."""

    def keep_if_best(self, loss: float, learner: Learner) -> None:
        """Keeps the learner's weights if this loss of a validation is the least so far, else counts one that is not."""
        if loss < self.best_loss:
            state = {name: tensor.detach().cpu().clone() for name, tensor in learner.sae.state_dict().items()}
            self.best_loss, self.best, self.worse = loss, state, 0
        else:
            self.worse += 1


@dataclass
class Run:
    """A training of one or more SAEs, as far as it has come."""

    learners: list[Learner]
    config: TrainingConfig
    checkpoints: Checkpoints
    checkpoint_seconds: float
    progress: Progress
    phase: str = RECONSTRUCT
    step: int = 0
    carriers: list[list[list[int]]] = field(default_factory=list)
    """For each learner the latents that learn to carry each label, its own first, once they are assigned."""
    tracks: list[Track] = field(default_factory=list)

    def resume(self) -> bool:
        """Goes back to the last checkpoint; False if there is none."""
        state = self.checkpoints.load()
        if state is None:
            self.tracks = [Track() for _ in self.learners]
            return False
        for learner, saved in zip(self.learners, state["learners"], strict=True):
            learner.load_state(saved)
        self.phase, self.step, self.carriers = state["phase"], state["step"], state["carriers"]
        self.tracks = [Track(**track) for track in state["tracks"]]
        return True

    def save(self) -> None:
        """Writes a checkpoint, in one process alone. Raises ValueError if another training saves there."""
        if distributed.rank() == 0:
            state = {
                "phase": self.phase,
                "step": self.step,
                "carriers": self.carriers,
                "learners": [learner.state() for learner in self.learners],
                "tracks": [vars(track) for track in self.tracks],
            }
            number = self.step + (RECONSTRUCT, SUPERVISE, FINISHED).index(self.phase) * 10**8
            self.checkpoints.save(number, state)

    def begin(self, phase: str) -> None:
        """Starts a phase at its first step, with the best weights of the one before."""
        for learner, track in zip(self.learners, self.tracks, strict=True):
            if track.best is not None:
                learner.sae.load_state_dict(track.best)
            track.best, track.best_loss, track.worse = None, float("inf"), 0
            learner.restart()
        self.phase, self.step = phase, 0
        self.save()


def run_phase(run: Run, steps: int, batches: Callable[[int], Iterator], step: Step, validate: Validate) -> None:
    """Goes through the steps of run.phase from run.step on; a learner that has stopped improving is left alone.

    batches(start) gives what each step is made of, from the start-th on. Raises ValueError if a loss is not finite, or
    as run.save does.
    """
    every = -(-steps // run.config.validations)
    saved = shown = time.monotonic()
    for batch in batches(run.step):
        learning = [index for index, track in enumerate(run.tracks) if track.worse < run.config.patience]
        if run.step >= steps or not learning:
            break
        numbers = {index: step(index, batch, run.step / steps) for index in learning}
        run.step += 1
        if run.step % every == 0 or run.step == steps:
            for index in learning:
                measured = distributed.as_first_says(validate(index))
                if not math.isfinite(measured["loss"]):
                    raise ValueError(
                        f"The loss is {measured['loss']}. Train with a smaller --learning-rate and --restart."
                    )
                run.tracks[index].keep_if_best(measured["loss"], run.learners[index])
                entry = {"phase": run.phase, "step": run.step, **_known(numbers[index]), "validation": measured}
                run.tracks[index].history.append(entry)
        now = time.monotonic()
        if now - shown > 0.2 or run.step == steps:
            run.progress(run.phase, run.step, steps, _known(numbers[learning[0]]))
            shown = now
        if now - saved >= run.checkpoint_seconds:
            run.save()
            saved = time.monotonic()


def _known(numbers: dict[str, torch.Tensor]) -> dict[str, float]:
    """Without the accuracy if there is none, as no concept is both shown and not shown in the batch."""
    return {name: float(value) for name, value in numbers.items() if name != "accuracy" or not value.isnan()}
