"""Labelled images of a cache: what they yield, and which ones are chosen."""

from dataclasses import replace

import pytest
import torch

from pure.planted import CONCEPTS, HOOKPOINT, POSITIONS, STEPS, plant, write_cache
from sae_eraser.training.cache.reader import Cache
from sae_eraser.training.data import LabelledImages, choose_images

IMAGES = 60
VECTORS_PER_IMAGE = STEPS * POSITIONS
EVERYONE = torch.ones(IMAGES, dtype=torch.bool)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Cache:
    return Cache(write_cache(tmp_path_factory.mktemp("planted"), plant(range(10))))


def test_images_come_with_their_maps_and_labels(cache):
    planted, indices = plant(range(10)), [3, 59, 30]
    images = LabelledImages(cache, HOOKPOINT, indices, cache.labels(CONCEPTS)[indices])
    assert len(images) == 3
    for index, (maps, labels) in zip(indices, images, strict=True):
        assert torch.equal(maps, planted.maps[index].half().float())
        assert torch.equal(labels, planted.labels()[index])


def test_of_two_halves_of_guidance_only_that_of_the_prompt_shows_its_concepts(cache, tmp_path):
    both = Cache(write_cache(tmp_path, plant(range(10)), branch="both"))
    for one, other in zip(
        *(choose_images(c, HOOKPOINT, EVERYONE, CONCEPTS, 10**9) for c in (cache, both)), strict=True
    ):
        assert all(map(torch.equal, one, other))
    one, other = (choose_images(c, HOOKPOINT, EVERYONE, CONCEPTS, 1).levels() for c in (cache, both))
    assert all(map(torch.equal, one, other))


def test_noise_levels_ascend_and_every_map_knows_its_own(cache):
    levels, place = choose_images(cache, HOOKPOINT, EVERYONE, CONCEPTS, 1).levels()
    assert levels.tolist() == [0.5, 2.0, 8.0]
    assert levels[place].tolist() == plant(range(1)).sigmas[0].tolist()


def test_all_images_are_taken_if_there_is_room(cache):
    among = torch.arange(IMAGES) % 3 > 0
    chosen = choose_images(cache, HOOKPOINT, among, CONCEPTS, VECTORS_PER_IMAGE * 40)
    assert chosen.indices == among.nonzero()[:, 0].tolist()
    assert torch.equal(chosen.labels, plant(range(10)).labels()[among])


def test_fewer_images_than_there_are_give_every_concept_its_share(cache):
    among = torch.arange(IMAGES) % 6 > 0  # so that one of the six combinations is missing
    chosen = choose_images(cache, HOOKPOINT, among, CONCEPTS, VECTORS_PER_IMAGE * 45)
    assert set(chosen.indices) < set(among.nonzero()[:, 0].tolist())
    assert chosen.indices == sorted(set(chosen.indices))
    assert torch.equal(chosen.labels, cache.labels(CONCEPTS)[chosen.indices])
    assert len(chosen) == 45
    assert chosen.labels.sum(dim=0).min() >= 9


def test_one_concept_leaves_room_for_pictures_without_it(cache):
    chosen = choose_images(cache, HOOKPOINT, EVERYONE, CONCEPTS[:1], VECTORS_PER_IMAGE * 20)
    assert chosen.labels.sum() == 10 and len(chosen) == 20


def test_it_is_told_how_far_the_reading_is(cache):
    told = []
    chosen = choose_images(cache, HOOKPOINT, EVERYONE, CONCEPTS, 1)
    for _ in replace(chosen, on_image=lambda done, total: told.append((done, total))):
        pass
    assert told == [(which, len(chosen)) for which in range(1, len(chosen) + 1)]


def test_every_concept_keeps_eight_images_however_small_the_room(cache):
    chosen = choose_images(cache, HOOKPOINT, torch.ones(IMAGES, dtype=torch.bool), CONCEPTS, 1)
    assert 8 <= chosen.labels.sum(dim=0).min()
    assert len(chosen) < 40


def test_a_rare_concept_is_among_the_chosen_ones(tmp_path):
    planted = plant(range(10))
    for image in planted.images[:-2]:
        image.labels["style"] = ["wavy"]
    for image in planted.images[-2:]:
        image.labels["style"] = ["grainy"]
    cache = Cache(write_cache(tmp_path, planted))
    chosen = choose_images(cache, HOOKPOINT, torch.ones(IMAGES, dtype=torch.bool), CONCEPTS, VECTORS_PER_IMAGE * 20)
    assert chosen.labels[:, 4].sum() == 2


def test_pictures_without_a_concept_that_most_show_are_among_the_chosen_ones(tmp_path):
    """Two of 60 are without it; of each of the two others there are 20 with it and 40 without."""
    planted = plant(range(10))
    for number, image in enumerate(planted.images):
        image.labels["style"] = [] if number in (7, 40) else ["wavy"]
    cache = Cache(write_cache(tmp_path, planted))
    for images in (1, 20, 50):
        chosen = choose_images(cache, HOOKPOINT, EVERYONE, CONCEPTS[:4], VECTORS_PER_IMAGE * images)
        assert (~chosen.labels[:, 3]).sum() == 2
        assert (~chosen.labels[:, :3]).sum(dim=0).min() >= 8
        assert len(chosen) <= max(images, 4 * 8)


def test_all_images_count_the_same_and_some_as_often_as_their_concepts_are_shown(tmp_path):
    """One disc among 30 pictures, and a style that half of the others have."""
    planted = plant(range(20))
    for number, image in enumerate(planted.images):
        image.labels.update({"object": ["box" if number % 30 else "disc"], "style": ["wavy"] if number % 2 else []})
    cache = Cache(write_cache(tmp_path, planted))
    among, labels = torch.arange(120) < 90, cache.labels(CONCEPTS)
    assert choose_images(cache, HOOKPOINT, among, CONCEPTS, VECTORS_PER_IMAGE * 90).weights is None
    some = choose_images(cache, HOOKPOINT, among, CONCEPTS, VECTORS_PER_IMAGE * 20)
    assert len(some) < 40 and some.labels[:, 0].sum() == 3
    assert some.weights.dtype == torch.float32 and some.weights.mean().item() == pytest.approx(1)
    shares = (some.weights[:, None] * some.labels).mean(dim=0)
    torch.testing.assert_close(shares, labels[among].float().mean(dim=0), rtol=1e-4, atol=1e-6)


def test_the_choice_is_the_same_every_time(cache):
    among = torch.ones(IMAGES, dtype=torch.bool)
    first, again = (choose_images(cache, HOOKPOINT, among, CONCEPTS, VECTORS_PER_IMAGE * 30) for _ in range(2))
    assert first.indices == again.indices
