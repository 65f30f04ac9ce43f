"""Sparing look-alikes: which mean over a map's positions tells that a picture shows a concept."""

from dataclasses import fields, replace

import pytest
import torch

from pure.planted import CONCEPTS, HOOKPOINT, POSITIONS, Planted, labelled_images, plant, write_cache
from pure.random_sae import random_sae
from pure.training_runs import train
from sae_eraser.sae_ops.sae_file import load_sae
from sae_eraser.training.assign import latent_means
from sae_eraser.training.cache.reader import Cache
from sae_eraser.training.calibrate import concept_statistics
from sae_eraser.training.data import LabelledImages
from sae_eraser.training.look_alikes import detection_means, sparing_look_alikes, telling_means
from sae_eraser.training.plan import GUIDED_TURN, SPARING_TURN

LATENTS = [(4, 2), (9,), (0,), (7, 1, 3), (1,)]


@pytest.fixture(scope="module")
def planted() -> Planted:
    return plant(range(4))


@pytest.fixture(scope="module")
def images(planted, tmp_path_factory) -> LabelledImages:
    return labelled_images(tmp_path_factory.mktemp("planted"), planted)


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "relu"])
@pytest.mark.parametrize("unlabelled", [0, 10])
def test_a_mean_detects_that_few_others_reach_and_that_nearly_all_of_its_own_do_at_first(
    planted, images, activation, unlabelled
):
    """Every image has one map for each of three noise levels, of which the last is the first of the sampling."""
    sae = random_sae(activation, d=16)
    labels = planted.labels()
    labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))[:unlabelled]] = False
    found = detection_means(sae, replace(images, labels=labels), [first for first, *_ in LATENTS])
    z = sae.encode(planted.maps.half().float()).mean(dim=2).flip(1)
    for concept, (shows, (latent, *_)) in enumerate(zip(labels.T, LATENTS, strict=True)):
        fires, kinds = z[..., latent], [shown & ~shows for shown in labels.T] + [~labels.any(dim=1)]
        bars = [max(fires[kind, level].quantile(0.99) for kind in kinds if kind.any()) for level in range(3)]
        share = min(1.0, float((fires[shows, 2] / bars[2]).quantile(0.02)))
        torch.testing.assert_close(found[:, concept], share * torch.stack(bars))


def test_a_mean_is_over_all_maps_of_a_noise_level(planted, images, tmp_path):
    sigmas = planted.sigmas.clone()
    sigmas[:, 2] = sigmas[:, 1]
    twice = replace(planted, maps=planted.maps.clone(), sigmas=sigmas)
    twice.maps[:, 2] = twice.maps[:, 1]
    sae = random_sae("relu", d=16)
    expected = detection_means(sae, images, [4, 9, 0, 7, 1])[1:]
    torch.testing.assert_close(detection_means(sae, labelled_images(tmp_path, twice), [4, 9, 0, 7, 1]), expected)


@pytest.mark.parametrize("best, expected", [((5, 9.0), 0.5), ((6, 1.0), 1.0), ((7, 3.0), 2.0)], ids=str)
def test_pictures_of_a_concept_are_found_in_the_first_quarter_of_the_sampling(best, expected):
    """Of eight noise levels the last two; all that others stay below is 2, all but one level of the own 0.5."""
    level, mean = best
    own = torch.full((3, 8), 0.5)
    own[:, level] = mean
    means, shown = torch.cat([own, torch.full((2, 8), 2.0)]), torch.tensor([True] * 3 + [False] * 2)
    found = telling_means(means, shown, [~shown])
    torch.testing.assert_close(found, torch.full((8,), expected))


def test_one_look_alike_is_told_apart_however_many_other_concepts_there_are(tmp_path):
    """All others together would hide what one in many shows."""
    sae, planted = random_sae("relu", d=16), plant(range(20))
    images = labelled_images(tmp_path, planted)
    fires = sae.encode(planted.maps.half().float()).mean(dim=2).flip(1)[:, 2, 4]
    order = fires.argsort(descending=True)
    labels = torch.zeros(len(images), len(images) // 3, dtype=torch.bool)
    labels[order, torch.arange(len(images)) // 3] = True
    found = detection_means(sae, replace(images, labels=labels), [4] * labels.shape[1])
    assert (fires[labels[:, 1]] < found[2, 0]).float().mean() > 0.5 and (fires[labels[:, 0]] >= found[2, 0]).all()


def test_what_all_or_no_pictures_show_is_detected_wherever_it_fires(images):
    labels = images.labels.clone()
    labels[:, 0], labels[:, 1] = True, False
    found = detection_means(random_sae("relu", d=16), replace(images, labels=labels), [4, 9, 0, 7, 1])
    assert not found[:, :2].any() and found[:, 2:].any()


def test_the_first_latent_of_each_concept_has_its_mean_and_all_others_zero(planted, images):
    sae = random_sae("relu", d=16)
    plain = concept_statistics(latent_means(sae, images), images.levels()[0], LATENTS)
    sparing = sparing_look_alikes(plain, sae, images, LATENTS)
    assert torch.equal(sparing.detection[:, [0, 2, 3, 4, 7]], detection_means(sae, images, [4, 9, 0, 7, 1]))
    assert not sparing.detection[:, [1, 5, 6]].any()
    assert sparing.positions == planted.maps.shape[2]
    assert plain.detection is None and plain.positions is None
    others = {field.name for field in fields(plain)} - {"detection", "positions"}
    assert all(getattr(sparing, name) is getattr(plain, name) for name in others)


def test_training_writes_what_spares_look_alikes_if_it_is_asked_to(tmp_path, capsys):
    both = write_cache(tmp_path / "both", plant(range(20)), branch="both")
    size = ("--latents", "48", "--k", "8", "--unsupervised-steps", "20", "--supervised-steps", "1")
    plain, sparing, more = (tmp_path / f"{name}.safetensors" for name in ("plain", "sparing", "more"))
    assert train(both, plain, *size, "--groups", "object", "--concept-latents", "6") == 0
    assert train(both, sparing, *size, "--groups", "object", "--concept-latents", "6", "--spare-look-alikes") == 0
    assert capsys.readouterr().out.count("than nearly all pictures of each other concept do") == 1
    (as_ever, before, old), (sae, header, statistics) = load_sae(plain), load_sae(sparing)
    assert old.detection is None and (statistics.detection[:, ::6] > 0).any()
    assert torch.equal(sae.W_enc, as_ever.W_enc) and torch.equal(statistics.overall, old.overall)
    assert {concept.turn for concept in before.concepts} == {GUIDED_TURN}
    assert {concept.turn for concept in header.concepts} == {SPARING_TURN}
    assert train(both, more, "--extend", sparing, "--supervised-steps", "1") == 0
    assert capsys.readouterr().out.count("than nearly all pictures of each other concept do") == 1
    _, extended, joined = load_sae(more)
    assert extended.concepts[:3] == header.concepts and joined.positions == statistics.positions
    assert torch.equal(joined.detection[:, :18], statistics.detection) and not joined.detection[:, 18:].any()


def test_a_mean_is_over_whole_maps_where_some_of_their_positions_are_kept(planted, tmp_path):
    kept = Cache(write_cache(tmp_path / "kept", planted, keep=4, map_positions={HOOKPOINT: POSITIONS}))
    images = LabelledImages(kept, HOOKPOINT, list(range(len(planted.images))), kept.labels(CONCEPTS))
    sae = random_sae("relu", d=16)
    plain = concept_statistics(latent_means(sae, images), images.levels()[0], LATENTS)
    assert kept.shape(HOOKPOINT)[1] == 4 and sparing_look_alikes(plain, sae, images, LATENTS).positions == POSITIONS


def test_a_cache_that_does_not_say_how_large_maps_are_is_refused_before_training(tmp_path, capsys):
    unknown = write_cache(tmp_path / "unknown", plant(range(20)), keep=4)
    assert train(unknown, tmp_path / "new.safetensors", "--spare-look-alikes") != 0
    assert "does not say of how many positions its 4 for each map were drawn" in capsys.readouterr().err


def test_what_is_watched_spares_no_look_alikes(tmp_path, capsys):
    both = write_cache(tmp_path / "both", plant(range(20)), branch="both")
    assert train(both, tmp_path / "new.safetensors", "--branch", "uncond", "--spare-look-alikes") != 0
    assert "Leave out --spare-look-alikes, or --branch uncond" in capsys.readouterr().err
