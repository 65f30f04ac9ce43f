"""A phase: its steps and validations, the best weights, stopping early, and going on after a stop."""

import itertools
from pathlib import Path

import pytest
import torch

from sae_eraser.sae_ops.autoencoder import SAEConfig, SparseAutoencoder
from sae_eraser.training.checkpoint import Checkpoints
from sae_eraser.training.config import TrainingConfig
from sae_eraser.training.learner import Learner
from sae_eraser.training.phases import RECONSTRUCT, SUPERVISE, Run, Track, run_phase


class Script:
    """Learners whose steps only count in b_dec, and whose validation losses are written down in advance."""

    def __init__(self, folder: Path, losses: list[list[float]], patience: int = 2, checkpoint_seconds: float = 1e9):
        """losses: for each learner one a validation."""
        config = TrainingConfig(patience=patience, validations=10)
        learners = [Learner(SparseAutoencoder(SAEConfig(2, 2, "topk", 1)), config) for _ in losses]
        self.run = Run(learners, config, Checkpoints(folder / "x.training", {}), checkpoint_seconds, self._progress)
        self.losses = [iter(column) for column in losses]
        self.batches: list[list[int]] = [[] for _ in losses]
        """For each learner those it got."""
        self.done: list[float] = []
        self.shown: list[tuple] = []

    def go(self, steps: int) -> None:
        if not self.run.tracks:
            self.run.resume()
        run_phase(self.run, steps, itertools.count, self._step, lambda i: {"loss": next(self.losses[i])})

    def _step(self, index: int, batch: int, done: float) -> dict[str, torch.Tensor]:
        self.batches[index].append(batch)
        self.done.append(done)
        with torch.no_grad():
            self.run.learners[index].sae.b_dec += 1
        return {"fvu": torch.tensor(float(batch))}

    def _progress(self, *numbers) -> None:
        self.shown.append(numbers)


def count(learner: Learner) -> float:
    return learner.sae.b_dec[0].item()


def test_a_phase_makes_its_steps_and_tells_how_much_is_over(tmp_path):
    script = Script(tmp_path, [[0.5] * 10], patience=100)
    script.go(20)
    assert script.batches == [list(range(20))]
    assert script.done == [step / 20 for step in range(20)]
    assert script.shown[-1] == (RECONSTRUCT, 20, 20, {"fvu": 19.0})


def test_validations_are_spread_over_the_phase_and_written_down(tmp_path):
    script = Script(tmp_path, [[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]])
    script.go(42)
    assert [entry["step"] for entry in script.run.tracks[0].history] == [5, 10, 15, 20, 25, 30, 35, 40, 42]
    assert script.run.tracks[0].history[1] == {
        "phase": RECONSTRUCT,
        "step": 10,
        "fvu": 9.0,
        "validation": {"loss": 0.8},
    }


def test_a_phase_stops_early_without_improvement_and_the_best_weights_are_kept(tmp_path):
    script = Script(tmp_path, [[0.9, 0.5, 0.7, 0.6, 0.4]], patience=2)
    script.go(100)
    assert len(script.batches[0]) == 40, "four validations: the second was the best"
    assert count(script.run.learners[0]) == 40
    script.run.begin(SUPERVISE)
    assert count(script.run.learners[0]) == 20
    assert (script.run.phase, script.run.step) == (SUPERVISE, 0)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_training(tmp_path, loss):
    script = Script(tmp_path, [[0.5, loss]])
    with pytest.raises(ValueError, match=f"The loss is {loss}. Train with a smaller --learning-rate and --restart"):
        script.go(20)
    assert script.batches == [[0, 1, 2, 3]]


def test_an_improvement_starts_the_patience_anew(tmp_path):
    script = Script(tmp_path, [[0.9, 0.95, 0.8, 0.85, 0.7, 0.6, 0.7, 0.6, 0.1]], patience=2)
    script.go(100)
    assert len(script.batches[0]) == 80


def test_a_learner_that_has_stopped_improving_is_left_alone_while_others_go_on(tmp_path):
    script = Script(tmp_path, [[0.5, 0.6, 0.7], [0.9, 0.8, 0.7, 0.6, 0.5, 0.6, 0.7]], patience=2)
    script.go(100)
    assert [len(batches) for batches in script.batches] == [30, 70]
    script.run.begin(SUPERVISE)
    assert [count(learner) for learner in script.run.learners] == [10, 50]


def test_the_next_phase_has_its_own_best(tmp_path):
    script = Script(tmp_path, [[0.1] + [0.2] * 2 + [0.9, 0.8, 0.85, 0.86]], patience=2)
    script.go(100)
    script.run.begin(SUPERVISE)
    assert script.run.tracks[0].worse == 0
    script.go(100)
    script.run.begin(SUPERVISE)
    assert count(script.run.learners[0]) == 10 + 20


def test_the_next_phase_begins_without_adams_moments(tmp_path):
    script = Script(tmp_path, [[0.5] * 10])
    script.go(1)
    (learner,) = script.run.learners
    learner.reconstruct(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), 0.0)
    assert learner.state()["adam"]["state"]
    script.run.begin(SUPERVISE)
    assert not learner.state()["adam"]["state"]


def test_a_stopped_phase_goes_on_with_its_step_its_best_and_its_patience(tmp_path):
    losses = [0.9, 0.5, 0.7, 0.6, 0.4]
    stopped = Script(tmp_path, [losses[:3]], checkpoint_seconds=0)
    with pytest.raises(StopIteration):
        stopped.go(100)  # at the fourth validation
    resumed = Script(tmp_path, [losses[3:]])
    resumed.go(100)
    assert resumed.batches == [[39]]
    assert [entry["step"] for entry in resumed.run.tracks[0].history] == [10, 20, 30, 40]
    resumed.run.begin(SUPERVISE)
    assert count(resumed.run.learners[0]) == 20


def test_checkpoints_come_as_often_as_asked(tmp_path):
    script = Script(tmp_path, [[0.5] * 10], patience=100)
    script.go(20)
    assert not (tmp_path / "x.training").exists()
    eager = Script(tmp_path, [[0.5] * 10], patience=100, checkpoint_seconds=0)
    eager.go(20)
    assert sorted(path.stem for path in (tmp_path / "x.training").glob("*.pt")) == ["000000019", "000000020"]


def test_a_run_without_checkpoints_starts_with_empty_tracks(tmp_path):
    script = Script(tmp_path, [[0.5]])
    assert not script.run.resume()
    assert script.run.tracks == [Track()]
