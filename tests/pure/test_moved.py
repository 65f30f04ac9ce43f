"""Whether a picture is taken for its own prompt's or for its partner's."""

import json
import math

import pytest
import torch

from sae_eraser.sae_ops.moved import judge_moved


def test_pictures_by_hand():
    own, partner = torch.tensor([1.0, 4.0, 2.0, 6.0, 3.0, 6.0]), torch.tensor([2.0, 1.0, 2.0, 3.0, 8.0, 3.0])
    originals, partners = torch.tensor([0.5, 1.0, 4.0, 4.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 2.0, 1.0, 8.0, 2.0])
    moved = judge_moved(own, partner, originals, partners)
    leads = [math.log(1 / 2), math.log(4), 0.0, math.log(2), math.log(3 / 8), math.log(2)]
    assert moved.lead == pytest.approx(leads, abs=1e-4)
    assert moved.worse == [2.0, 0.5, 0.5, 3.0, 1.5, 1.5]
    assert moved.share == 3 / 6  # the second, the fourth and the sixth; the third could be either
    assert moved.broken == 2 / 6  # the first and the fourth; no more than 1.5 is none
    assert moved.whole == 2 / 6  # the second and the sixth


def test_pictures_that_became_nan_are_broken():
    ones, nan = torch.ones(2), torch.tensor([math.nan, 1.0])
    moved = judge_moved(nan, nan, ones, ones)
    assert (moved.share, moved.broken, moved.whole) == (0, 0.5, 0)
    assert json.loads(json.dumps(moved.worse, allow_nan=False))[0] > 1.5
