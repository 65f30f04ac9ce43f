"""Steer Concept in ComfyUI: what it draws, and how it stands beside Erase Concept."""

import pytest
import torch

from sae_eraser.nodes.erase.steer_concept import SteerConcept
from sae_eraser.nodes.hooks.block_hooks import get_hooks
from shapecanvas.classifier import classify
from shapecanvas.concepts import OBJECTS, STYLES
from shapecanvas.world import World, decode, sample_latents
from with_comfyui.random_files import MID, UP
from with_comfyui.sampling import differs, erase


def steer(model, concept="disc", sae=MID, strength=1.0, start=0.0, end=1.0, branch="both", mask=None):
    """The model as the node Steer Concept hands it on."""
    chosen = {"sae": sae, "concept": concept}
    return SteerConcept.execute(model, strength, start, end, branch, sae=chosen, mask=mask).result[0]


def test_strength_0_is_no_node(model):
    assert steer(model, strength=0) is model


@pytest.mark.parametrize("sae", [MID, UP])
def test_it_changes_the_picture_even_where_the_latent_never_fires(model, sample, sae):
    latents = sample(steer(model, "silent", sae, 20.0))
    assert latents.isfinite().all()
    assert differs(latents, sample(model))
    assert torch.equal(sample(steer(model, "silent", sae, 20.0)), latents)


def test_beside_erasures_it_is_one_edit_with_one_encode_in_any_order(model, sample, encodes):
    first = erase(steer(erase(model, "disc"), "wavy", strength=5.0), "box")
    second = steer(erase(erase(model, "box"), "disc"), "wavy", strength=5.0)
    assert len(get_hooks(first)) == 1
    both = sample(first)
    assert len(encodes) == 3
    assert torch.equal(sample(second), both)
    assert differs(both, sample(erase(erase(model, "disc"), "box")))
    assert differs(both, sample(steer(model, "wavy", strength=5.0)))


def test_range_and_branch_are_kept_to(model, sample):
    plain = sample(model)
    assert torch.equal(sample(steer(model, strength=20.0, start=0.98, end=0.99)), plain)
    halves = [sample(steer(model, strength=20.0, branch=branch)) for branch in ("cond", "uncond", "both")]
    assert all(differs(a, b) for index, a in enumerate([plain, *halves]) for b in [plain, *halves][:index])


@pytest.mark.parametrize(
    "sae, concept, strength, prompts",
    [
        ("sae_shapecanvas_objects.safetensors", "star", 2.5, [f"{STYLES[i % 8]} style" for i in range(16)]),
        ("sae_shapecanvas_styles.safetensors", "neon", 1.5, [f"a {OBJECTS[i % 12]}" for i in range(16)]),
    ],
    ids=["object", "style"],
)
def test_the_concept_appears_where_the_prompt_does_not_name_it(world: World, sae, concept, strength, prompts):
    """And what the prompt does name stays."""
    steered = steer(world.model, concept, sae, strength, branch="cond")
    seen = {}
    for name, model in [("plain", world.model), ("steered", steered)]:
        latents = sample_latents(world, prompts, list(range(3_000_000, 3_000_016)), model, steps=12)
        objects, styles = classify(world.classifier, decode(world, latents))
        seen[name] = [OBJECTS[found] for found in objects], [STYLES[found] for found in styles]
    own, other = (0, 1) if concept in OBJECTS else (1, 0)
    assert seen["plain"][own].count(concept) <= 4
    assert seen["steered"][own].count(concept) >= 10
    kept = [found in prompt.split() for found, prompt in zip(seen["steered"][other], prompts, strict=True)]
    assert sum(kept) >= 14
