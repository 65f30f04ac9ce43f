"""Concept Heatmap: what it draws lies where the concept fired, whatever the shape."""

from dataclasses import replace

import pytest
import torch

from sae_eraser.nodes.look.concept_heatmap import ConceptHeatmap, as_pictures
from sae_eraser.nodes.look.heat_pictures import colours, overlay, strip
from sae_eraser.sae_ops.concepts import detecting_terms, find_concept
from sae_eraser.sae_ops.scores import relative
from shapecanvas.concepts import pair_prompt
from shapecanvas.world import World, decode, sample_latents
from with_comfyui.sampling import differs
from with_comfyui.watching import OBJECTS_SAE, watched, without_statistics


@pytest.fixture(scope="module")
def run(world: World):
    """A house and a star, wider than high: watch, latent and images."""
    model, watch = watched(world.model, OBJECTS_SAE)
    prompts = [pair_prompt(name, "plain") for name in ("house", "star")]
    latents = sample_latents(world, prompts, [51, 52], model, width=96, steps=10)
    return watch, {"samples": latents}, decode(world, latents)


def draw(run, concept="house"):
    return ConceptHeatmap.execute(*run, concept).result


def test_the_mask_says_at_how_many_steps_it_fired_at_each_place(run):
    watch, latent, images = run
    _, mask, _ = draw(run)
    assert mask.shape == images.shape[:3] and mask.min() >= 0 and mask.max() <= 1
    found = watch.run_of(latent["samples"])
    index = find_concept(watch.sae.header.concepts, "house")
    (term,) = detecting_terms(watch.sae.header.concepts)[index]
    means = watch.sae.statistics.at(found.sigmas, torch.tensor([term]))["overall"]
    expected = (found.z[:, 0, term] > means[:, :, None]).float().mean(dim=0)
    assert 0 < expected.mean() < 1
    places = mask[0].unflatten(0, (4, 16)).unflatten(2, (6, 16)).mean(dim=(1, 3))
    torch.testing.assert_close(places, expected, atol=0.35, rtol=0)
    assert torch.corrcoef(torch.stack([places.flatten(), expected.flatten()]))[0, 1] > 0.95


def test_pictures_that_comfyui_keeps_in_fp16_are_drawn_the_same(run):
    """As it does with --fp16-intermediates."""
    watch, latent, images = run
    halves = ConceptHeatmap.execute(watch, {"samples": latent["samples"].half()}, images.half(), "house").result
    for half, whole in zip(halves, draw(run), strict=True):
        torch.testing.assert_close(half, whole, atol=2e-3, rtol=0)


def test_a_concept_that_never_fires_is_seen_nowhere(run):
    over, mask, _ = draw(run, "circle")
    assert mask.amax() == 0
    images = run[2]
    grey = torch.lerp(images, 0.6 * images.mean(dim=3, keepdim=True).expand_as(images), 0.5)
    torch.testing.assert_close(over, grey, atol=0.1, rtol=0)


def test_the_overlay_glows_where_the_mask_is_white(run):
    images = run[2]
    over, mask, _ = draw(run)
    assert over.shape == images.shape and over.min() >= 0 and over.max() <= 1
    warmth = (over[0, :, :, 0] - over[0, :, :, 2]) - (images[0, :, :, 0] - images[0, :, :, 2])
    assert warmth[mask[0] > 0.9].mean() > warmth[mask[0] < 0.1].mean() + 0.3


def test_without_a_name_the_concept_met_most_is_shown(run):
    first = (run[0], run[1], run[2])
    shown = draw(first, "")
    assert any(
        all(torch.equal(a, b) for a, b in zip(shown, draw(run, name), strict=True)) for name in ("house", "star")
    )


def test_the_strip_has_eight_maps_for_every_picture(run):
    strips = draw(run)[2]
    assert len(strips) == 2 and strips.shape[2] == 8 * 118 + 6
    columns = strips[0, 40].reshape(-1, 3)
    paper = (columns == 0.1).all(dim=1)
    assert (paper.diff().sum()) == 16, "eight maps between nine gaps"


def test_the_strip_goes_from_the_first_step_to_the_last(run):
    watch, latent, _ = run
    found, concepts = watch.run_of(latent["samples"]), watch.sae.header.concepts
    terms = detecting_terms(concepts)[find_concept(concepts, "house")]
    maps, usual = relative(found.z, found.sigmas, terms, watch.sae.statistics)
    both = strip(maps[:, 0], usual, [0, 9])
    shown = draw(run)[2][0]
    assert differs(both[:80, :118], both[:80, -118:])
    assert torch.equal(shown[:80, :118], both[:80, :118])
    assert torch.equal(shown[:80, -118:], both[:80, -118:])


@pytest.mark.parametrize("concept", ["house", ""])
def test_a_run_with_nan_is_said(run, concept):
    z = run[0].run_of(run[1]["samples"]).z
    kept = z[0, 0, 0].clone()
    z[0, 0, 0].fill_(torch.nan)
    try:
        with pytest.raises(ValueError, match="No score can be told for circle: the model has drawn NaN"):
            draw(run, concept)
    finally:
        z[0, 0, 0] = kept


def test_a_concept_without_a_score_has_a_map(run):
    """Of which the statistics do not tell pictures with and without apart."""
    watch, latent, images = run
    blind = replace(watch, sae=without_statistics(watch.sae, "house"))
    assert all(part.isfinite().all() for part in draw((blind, latent, images)))
    with pytest.raises(ValueError, match="No score can be told for house"):
        draw((blind, latent, images), "")


def test_bars_grow_with_what_was_met():
    maps = torch.stack([torch.full((4, 4), value) for value in (0.0, 1.0, 2.0)])
    picture = strip(maps, torch.ones(3), [0, 1, 2])
    bar = torch.tensor((0.55, 0.62, 0.75))
    heights = [(picture[:, x] == bar).all(dim=1).sum().item() for x in (60, 178, 296)]
    assert heights == [1, 34, 70], "two pixels of the higher bars are the line of what is usual"


def test_a_short_run_shows_all_its_steps():
    assert strip(torch.rand(1, 4, 4), torch.ones(1), [0]).shape[1] == 124


def test_equal_steps_of_the_colour_map_are_equally_lighter():
    """Lightness L* of CIELAB, another measure than the one it is made with."""
    rgb = colours(torch.linspace(0, 1, 21)).double()
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64)
    lightness = 116 * luminance ** (1 / 3) - 16
    steps = lightness.diff()
    assert steps.min() > 0 and steps.max() < 2 * steps.min()
    assert lightness[0] < 15 and lightness[-1] > 90


def test_no_heat_is_no_colour():
    image = torch.full((1, 8, 8, 3), 0.5)
    assert overlay(image, torch.zeros(1, 8, 8)).var(dim=3).amax() < 1e-12


def test_pictures_of_another_number_are_refused(run):
    with pytest.raises(ValueError, match="1 pictures, but the latent has 2"):
        draw((run[0], run[1], run[2][:1]))


@pytest.mark.parametrize(
    "shape, latents",
    [
        ((3, 1, 2, 5, 4, 6), (1, 16, 5, 8, 12)),
        ((3, 1, 2, 24, 1), (1, 16, 8, 12)),
        ((3, 1, 2, 6, 4), (1, 16, 8, 12)),
    ],
)
def test_vectors_that_are_no_picture_are_refused(shape, latents):
    with pytest.raises(ValueError, match="no map of one picture.*Concept Score works"):
        as_pictures(torch.zeros(shape), torch.Size(latents))


@pytest.mark.parametrize(
    "size, smaller", [((65, 96), (9, 12)), ((9, 64), (5, 32)), ((5, 7), (5, 7)), ((64, 5), (8, 1))]
)
def test_sides_that_were_rounded_up_are_those_of_a_picture(size, smaller):
    """65 is halved to 33, 17 and 9."""
    assert as_pictures(torch.zeros(3, 1, 2, *smaller), torch.Size((1, 16, *size))).shape == (3, 1, 2, *smaller)


def test_one_frame_is_a_picture():
    assert as_pictures(torch.zeros(3, 1, 2, 1, 4, 6), torch.Size((1, 16, 1, 8, 12))).shape == (3, 1, 2, 4, 6)
