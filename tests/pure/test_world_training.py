"""Every stage of the small world's training goes on where it was stopped, to the same weights."""

from pathlib import Path

import pytest
import torch

from shapecanvas.training.fitting import fit

STEPS = 600
"""Its state is saved every 250."""


class Stopped(Exception):
    pass


def trained(work: Path, ema: float, stop_at: int | None = None) -> torch.Tensor:
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 4)

    def loss_of(step, generator):
        if step == stop_at:
            raise Stopped
        x, target = torch.randn(2, 8, 4, generator=generator)
        return (layer(x) - target).square().mean()

    fit("layer", work, {"layer": layer}, loss_of, STEPS, 1e-2, ema=ema)
    return layer.weight.detach()


@pytest.mark.parametrize("ema", [0.0, 0.99])
def test_a_stopped_stage_ends_with_the_same_weights(tmp_path, ema):
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()
    straight = trained(tmp_path / "straight", ema)
    for stop_at in (300, 580):
        with pytest.raises(Stopped):
            trained(tmp_path / "stopped", ema, stop_at)
    assert torch.equal(trained(tmp_path / "stopped", ema), straight)
    assert torch.equal(trained(tmp_path / "stopped", ema), straight), "a finished stage is only read"
