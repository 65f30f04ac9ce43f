"""The shipped SAE erases: the concept is gone from pictures that ask for it, everything else stays."""

import pytest

from shapecanvas.evaluate import evaluate_erasing
from shapecanvas.world import World

SAE = "sae_shapecanvas.safetensors"


@pytest.mark.parametrize("concept", ["star", "circle", "house", "neon"])
def test_an_erased_concept_is_gone_and_the_others_stay(world: World, concept: str):
    scores = evaluate_erasing(world, SAE, concept, seeds_per_pair=5)
    assert scores["UA"] >= 90
    assert scores["IRA"] >= 90
    assert scores["CRA"] >= 90
