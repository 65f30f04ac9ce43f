"""The shipped SAEs erase: the concept is gone from pictures that ask for it, everything else stays."""

import pytest

from shapecanvas.evaluate import evaluate_erasing
from shapecanvas.world import World


@pytest.mark.parametrize(
    "sae, concept",
    [
        ("sae_shapecanvas_objects.safetensors", "circle"),
        ("sae_shapecanvas_objects.safetensors", "ring"),
        ("sae_shapecanvas_objects.safetensors", "house"),
        ("sae_shapecanvas_styles.safetensors", "neon"),
    ],
)
def test_an_erased_concept_is_gone_and_the_others_stay(world: World, sae: str, concept: str):
    scores = evaluate_erasing(world, sae, concept, seeds_per_pair=5)
    assert scores["UA"] >= 90
    assert scores["IRA"] >= 90
    assert scores["CRA"] >= 90
