"""Concept Guard: what passes, what becomes of what does not, and that nothing slips through."""

from dataclasses import replace

import pytest
import torch

from sae_eraser.nodes.look.concept_guard import ConceptGuard, blurred
from sae_eraser.nodes.look.concept_score import THRESHOLD, read_scores
from sae_eraser.nodes.look.watching import UnwatchedLatent
from sae_eraser.sae_ops.concepts import UnknownConcept
from shapecanvas.classifier import classify
from shapecanvas.concepts import OBJECTS, pair_prompt
from shapecanvas.world import World, decode, sample_latents
from with_comfyui.random_files import write_random_sae
from with_comfyui.sampling import encode, erase
from with_comfyui.small_transformers import small_transformer
from with_comfyui.watching import DRAWN_SAE, OBJECTS_SAE, watched, without_statistics

STAR = OBJECTS.index("star")


@pytest.fixture(scope="module")
def run(world: World):
    """A star, a house and a circle: images, watch and latent."""
    model, watch = watched(world.model, OBJECTS_SAE)
    prompts = [pair_prompt(name, "plain") for name in ("star", "house", "circle")]
    latents = sample_latents(world, prompts, [41, 42, 43], model)
    return decode(world, latents), watch, {"samples": latents}


def guard(run, concepts, action="black", threshold=THRESHOLD):
    return ConceptGuard.execute(*run, concepts, threshold, action).result


@pytest.mark.parametrize(
    "concepts, hidden", [("star", [0]), ("star, circle", [0, 2]), ("tree\nhouse", [1]), ("tree", [])]
)
def test_pictures_in_which_one_was_met_become_black_and_only_those(run, concepts, hidden):
    images, met = guard(run, concepts)
    assert met is bool(hidden)
    for place, (after, before) in enumerate(zip(images, run[0], strict=True)):
        assert torch.equal(after, torch.zeros_like(before) if place in hidden else before)


def test_blurring_leaves_rough_colours_alone(run):
    images, met = guard(run, "house", "blur")
    assert met and torch.equal(images[[0, 2]], run[0][[0, 2]])
    torch.testing.assert_close(images[1].mean(dim=(0, 1)), run[0][1].mean(dim=(0, 1)), atol=0.03, rtol=0)
    steps = [picture.diff(dim=1).abs().amax() for picture in (images[1], run[0][1])]
    assert steps[0] < 0.3 * steps[1]


@pytest.mark.parametrize("side", [64, 512])
def test_of_a_large_picture_no_more_is_left_than_of_a_small_one(side):
    """Of sixteen stripes nothing."""
    stripes = (torch.arange(side) * 16 // side % 2).float()
    grey = blurred(stripes[:, None].expand(1, side, side, 3))
    torch.testing.assert_close(grey, torch.full_like(grey, 0.5))


class OnMPS(torch.Tensor):
    """A tensor that says what one on a Mac's GPU says."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.nn.functional.adaptive_avg_pool2d:
            raise RuntimeError("Adaptive pool MPS: input sizes must be divisible by output sizes.")
        result = super().__torch_function__(function, types, args, kwargs)
        return result.as_subclass(torch.Tensor) if function is torch.Tensor.cpu else result


def test_pictures_on_a_device_that_cannot_pool_them_are_blurred_like_others():
    images = torch.rand(1, 30, 50, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(blurred(images.as_subclass(OnMPS)), blurred(images))


def test_stopping_names_what_was_met(run):
    with pytest.raises(ValueError, match=r"It met: star \([01]\.\d\d\); allowed is 0.25"):
        guard(run, "star, tree", "stop")
    assert torch.equal(guard(run, "tree", "stop")[0], run[0])


def test_a_concept_that_is_named_twice_is_told_once(run):
    with pytest.raises(ValueError, match=r"It met: star \([01]\.\d\d\); allowed is 0.25"):
        guard(run, "star, Star", "stop")


@pytest.mark.parametrize("threshold", ["nan", "inf", "-inf"])
def test_a_threshold_that_nothing_exceeds_is_refused(run, threshold):
    with pytest.raises(ValueError, match=f"threshold is {threshold}"):
        guard(run, "star", threshold=float(threshold))


def test_what_is_drawn_is_guarded_against_and_not_what_was_asked_for(world: World):
    """Four stars as the model draws them, and erased: the other SAE meets them in all, by the prompt."""
    prompts, seeds = [pair_prompt("star", style) for style in ("neon", "plain", "dots", "sketch")], [51, 52, 53, 54]
    for drawn, model in ((True, world.model), (False, erase(world.model, "star", OBJECTS_SAE, mode="turn"))):
        model, watch = watched(model, DRAWN_SAE)
        model, asked = watched(model, OBJECTS_SAE)
        latents = sample_latents(world, prompts, seeds, model)
        images = decode(world, latents)
        objects, _ = classify(world.classifier, images)
        assert ((objects == STAR) == drawn).all()
        after, met = guard((images, watch, {"samples": latents}), "star")
        assert met is drawn and torch.equal(after, torch.zeros_like(images) if drawn else images)
        assert guard((images, asked, {"samples": latents}), "star")[1]


@pytest.mark.parametrize("text", ["", " ,\n"])
def test_a_guard_against_nothing_is_an_error(run, text):
    with pytest.raises(ValueError, match="No concept is named"):
        guard(run, text)


def test_a_misspelt_concept_is_an_error(run):
    with pytest.raises(UnknownConcept, match="star"):
        guard(run, "starr")


def test_pictures_and_latents_of_different_runs_are_errors(run):
    images, watch, latent = run
    with pytest.raises(ValueError, match="2 pictures, but the latent has 3"):
        guard((images[:2], watch, latent), "star")
    with pytest.raises(UnwatchedLatent):
        guard((images, watch, {"samples": latent["samples"] + 1}), "star")


@pytest.mark.parametrize("prompts", [1, 2])
def test_of_videos_all_pictures_are_withheld_or_none(comfyui, world, prompts):
    """A latent of a video has three frames here, which are decoded to nine pictures."""
    model = small_transformer("WAN21_T2V")
    path = comfyui.base / "models" / "sae" / "video.safetensors"
    write_random_sae(path, "blocks.0", d=64, model_family="WAN21_T2V")
    model, watch = watched(model, path.name)
    empty = {"samples": torch.zeros(prompts, 16, 3, 6, 10)}
    star = encode(world.clip, "a star")
    latent = comfyui.nodes.KSampler().sample(model, 1, 1, 1.0, "euler", "normal", star, star, empty)[0]
    images = torch.rand(9 * prompts, 12, 20, 3)
    score = float(read_scores(watch, latent)[:, 0].amax())
    for threshold, expected in ((score - 0.01, torch.zeros_like(images)), (score + 0.01, images)):
        assert torch.equal(guard((images, watch, latent), "disc", threshold=threshold)[0], expected)


def test_only_what_is_guarded_against_must_have_a_score(run):
    """Of a concept that no statistics tell, as of one that fired nowhere while they were taken."""
    images, watch, latent = run
    blind = replace(watch, sae=without_statistics(watch.sae, "star"))
    assert torch.equal(guard((images, blind, latent), "house")[0], guard(run, "house")[0])
    with pytest.raises(ValueError, match="No score can be told for star"):
        guard((images, blind, latent), "house, star")
