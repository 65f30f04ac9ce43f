"""The shipped SAEs erase: the concept is gone from pictures that ask for it, everything else stays."""

import pytest

from shapecanvas.evaluate import evaluate_erasing
from shapecanvas.world import World

MISSED = pytest.param("star", marks=pytest.mark.xfail(reason="UA 87.5 where it was measured"))


@pytest.mark.parametrize("concept", ["circle", "ring", "crescent", MISSED])
def test_an_erased_object_is_gone_and_the_others_stay(world: World, concept: str):
    scores = evaluate_erasing(world, "sae_shapecanvas_objects.safetensors", concept, seeds_per_pair=5)
    assert scores["UA"] >= 90
    assert scores["IRA"] >= 90
    assert scores["CRA"] >= 90


@pytest.fixture(scope="module")
def neon(world: World) -> dict:
    return evaluate_erasing(world, "sae_shapecanvas_styles.safetensors", "neon", seeds_per_pair=5)


def test_an_erased_style_is_gone_and_the_other_styles_stay(neon):
    assert neon["UA"] >= 90
    assert neon["IRA"] >= 90


@pytest.mark.xfail(reason="CRA 89.4 where it was measured")
def test_an_erased_style_leaves_the_objects(neon):
    assert neon["CRA"] >= 90
