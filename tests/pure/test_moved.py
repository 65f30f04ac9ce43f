"""Whether a picture is taken for its own prompt's or for its partner's."""

import json
import math

import pytest
import torch

from sae_eraser.sae_ops.moved import judge_moved


def test_pictures_by_hand():
    own, partner = torch.tensor([1.0, 4.0, 2.0, 6.0, 3.0]), torch.tensor([2.0, 1.0, 2.0, 3.0, 8.0])
    originals, partners = torch.tensor([1.0, 1.0, 1.0, 4.0, 1.0]), torch.tensor([1.0, 1.0, 2.0, 1.0, 8.0])
    moved = judge_moved(own, partner, originals, partners)
    assert moved.lead == pytest.approx([math.log(1 / 2), math.log(4), 0.0, math.log(2), math.log(3 / 8)], abs=1e-4)
    assert moved.worse == [1.0, 1.0, 2.0, 3.0, 3.0]
    assert moved.share == 0.4  # the second and the fourth; the third could be either
    assert moved.broken == 0.6
    assert moved.whole == 0.2  # the second alone; the fourth is broken


def test_pictures_that_became_nan_are_broken():
    ones, nan = torch.ones(2), torch.tensor([math.nan, 1.0])
    moved = judge_moved(nan, nan, ones, ones)
    assert (moved.share, moved.broken, moved.whole) == (0, 0.5, 0)
    assert json.loads(json.dumps(moved.worse, allow_nan=False))[0] > 1.5
