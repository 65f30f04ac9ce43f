"""The shipped SAEs erase: the concept is gone from pictures that ask for it, everything else stays."""

import pytest

from shapecanvas.evaluate import evaluate_erasing
from shapecanvas.world import World


@pytest.mark.parametrize("concept", ["circle", "ring", "crescent"])
def test_an_erased_object_is_gone_and_the_others_stay(world: World, concept: str):
    scores = evaluate_erasing(world, "sae_shapecanvas_objects.safetensors", concept, seeds_per_pair=5)
    assert scores["UA"] >= 90
    assert scores["IRA"] >= 90
    assert scores["CRA"] >= 90


def test_an_erased_style_is_gone_and_the_other_styles_stay(world: World):
    scores = evaluate_erasing(world, "sae_shapecanvas_styles.safetensors", "neon", seeds_per_pair=5)
    assert scores["UA"] >= 90
    assert scores["IRA"] >= 90
