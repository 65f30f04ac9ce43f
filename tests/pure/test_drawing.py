"""The objects of both small worlds, as they are drawn."""

from itertools import combinations

import numpy as np
import pytest

from shapecanvas.concepts import ALIKE_OBJECTS, FORMS, SHAPES
from shapecanvas.drawing import CONTOURS, draw


def ink(name: str, seed: int) -> np.ndarray:
    """Where the object is, in black lines on white."""
    return draw(name, "outline", seed).mean(axis=2) < 128


@pytest.mark.parametrize("name", CONTOURS)
def test_every_object_lies_on_the_page_and_its_seed_decides_where(name):
    first, second = ink(name, 1), ink(name, 2)
    assert np.array_equal(ink(name, 1), first) and not np.array_equal(first, second)
    for drawn in (first, second):
        assert drawn.any() and not np.concatenate([drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]]).any()


def test_objects_that_are_alike_are_not_the_same():
    assert set(ALIKE_OBJECTS) == {f"{form} {shape}" for form in FORMS for shape in SHAPES}
    for one, other in combinations(ALIKE_OBJECTS, 2):
        assert (ink(one, 3) != ink(other, 3)).mean() > 0.01, (one, other)
