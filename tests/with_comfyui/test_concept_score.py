"""Concept Score on the small world's pictures."""

from dataclasses import replace

import pytest
import torch

from sae_eraser.nodes.files.load_sae import LoadSAE
from sae_eraser.nodes.look.concept_score import THRESHOLD, ConceptScore, read_scores
from sae_eraser.sae_ops.concepts import UnknownConcept
from shapecanvas.concepts import OBJECTS, STYLES, pair_prompt
from shapecanvas.world import World, sample_latents
from with_comfyui.sampling import erase
from with_comfyui.watching import OBJECTS_SAE, STYLES_SAE, watched, without_statistics

PAIRS = [("star", "neon"), ("house", "dots"), ("circle", "mosaic"), ("ring", "stripes"), ("cross", "neon")]


@pytest.fixture(scope="module")
def seen(world: World):
    """Five pictures with the two watches of their run."""
    model, objects = watched(world.model, OBJECTS_SAE)
    model, styles = watched(model, STYLES_SAE)
    prompts = [pair_prompt(*pair) for pair in PAIRS]
    latents = sample_latents(world, prompts, list(range(31, 31 + len(PAIRS))), model)
    return objects, styles, {"samples": latents}


def score(watch, latent, concept="", threshold=THRESHOLD):
    return ConceptScore.execute(watch, latent, concept, threshold)


@pytest.mark.parametrize("group, names, least", [(0, OBJECTS, 0.5), (1, STYLES, THRESHOLD)])
def test_pictures_score_about_1_in_what_they_show_and_about_0_in_all_else(seen, group, names, least):
    watch, latent = seen[group], seen[2]
    concepts = [concept.name for concept in watch.sae.header.concepts]
    assert sorted(concepts) == sorted(names)
    for own, pair in zip(read_scores(watch, latent), PAIRS, strict=True):
        shown = torch.tensor([name == pair[group] for name in concepts])
        assert own[shown] > least
        assert own[~shown].max() < THRESHOLD


def test_the_concept_named_is_scored_and_compared(seen):
    objects, styles, latent = seen
    value, met, text = score(objects, latent, "star").result
    assert met is True and 0.5 < value < 1.6
    assert score(objects, latent, "star", threshold=value + 0.01).result[1] is False
    value, met, _ = score(objects, latent, "tree").result
    assert met is False and abs(value) < 0.1


def test_a_batch_has_the_highest_score_of_its_pictures(seen):
    objects, _, latent = seen
    column = read_scores(objects, latent)[:, [c.name for c in objects.sae.header.concepts].index("house")]
    assert score(objects, latent, "house").result[0] == column.max()
    assert column.argmax() == 1


def test_without_a_name_the_one_met_most_is_scored(seen):
    objects, _, latent = seen
    value, _, text = score(objects, latent).result
    assert value == read_scores(objects, latent).max()
    assert text.startswith(f"{value:.2f}  object: ")


def test_all_concepts_are_shown_from_the_one_met_most_down(seen):
    objects, _, latent = seen
    output = score(objects, latent)
    lines = output.result[2].splitlines()
    assert output.ui.as_dict()["text"] == (output.result[2],)
    assert len(lines) == len(OBJECTS)
    numbers = [float(line.split()[0]) for line in lines]
    assert numbers == sorted(numbers, reverse=True)
    assert sum(" met " in line for line in lines) == 5
    assert any("house  met  picture 2 of 5" in line for line in lines)


def test_what_the_model_wanted_is_measured_though_it_is_erased(world, seen):
    model, watch = watched(world.model, OBJECTS_SAE)
    erased = erase(model, "star", OBJECTS_SAE)
    latents = sample_latents(world, [pair_prompt("star", "neon")], [31], erased)
    assert score(watch, {"samples": latents}, "star").result[1] is True


def test_an_unknown_concept_is_an_error(seen):
    with pytest.raises(UnknownConcept, match="Did you mean 'star'"):
        score(seen[0], seen[2], "starr")


def test_a_concept_without_a_score_is_no_bar_to_the_others(seen):
    """Of which the statistics do not tell pictures with and without apart."""
    objects, _, latent = seen
    blind = replace(objects, sae=without_statistics(objects.sae, "heart"))
    value, met, text = score(blind, latent, "star").result
    assert (value, met) == score(objects, latent, "star").result[:2]
    assert text.splitlines()[-1] == "none  object: heart"
    for concept in ("heart", ""):
        with pytest.raises(ValueError, match="No score can be told for heart"):
            score(blind, latent, concept)


def test_what_does_not_detect_a_concept_is_not_kept(seen):
    objects, _, latent = seen
    concepts = LoadSAE.execute(OBJECTS_SAE).result[0].header.concepts
    assert all(len(concept.latents) > 1 and concept.first_detects for concept in concepts)
    assert objects.run_of(latent["samples"]).z.shape[2] == len(concepts)


def test_nan_is_no_score(seen):
    objects, _, latent = seen
    run = objects.run_of(latent["samples"])
    run.z[0, 0, 0].fill_(torch.nan)
    try:
        with pytest.raises(ValueError, match="No score can be told for circle"):
            score(objects, latent, "star")
    finally:
        run.z[0, 0, 0].fill_(0)


def test_a_model_that_draws_nan_is_named(world, sample):
    broken = world.model.clone()
    broken.add_patches({"diffusion_model.out.2.bias": (torch.full((16,), torch.nan),)})
    model, watch = watched(broken, OBJECTS_SAE)
    with pytest.raises(ValueError, match="the model has drawn NaN"):
        score(watch, {"samples": sample(model, steps=2)}, "star")
