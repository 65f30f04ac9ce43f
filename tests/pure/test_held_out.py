"""Which images are held out for validation."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sae_eraser.training.cache.manifest import CachedImage, CacheSettings
from sae_eraser.training.cache.reader import Cache
from sae_eraser.training.cache.writer import CacheWriter
from sae_eraser.training.held_out import held_out

POINT = "mid_block.attentions.0"
IMAGES = 40
SETTINGS = CacheSettings(
    "SD15", {POINT: 3}, "output", {}, [CachedImage("a disc", seed, {}) for seed in range(IMAGES)], images_per_shard=8
)


def test_one_image_in_ten_is_held_out_whatever_else_the_cache_holds(tmp_path):
    settings = replace(
        SETTINGS, images=[CachedImage("a disc", seed, {}) for seed in range(1000)], images_per_shard=1000
    )
    CacheWriter(tmp_path, settings).write_shard(0, {POINT: torch.zeros(1000, 1, 1, 3)}, torch.ones(1000, 1))
    mask = held_out(Cache(tmp_path))
    assert 70 < mask.sum() < 130
    CacheWriter(tmp_path / "few", SETTINGS).write_shard(0, {POINT: torch.zeros(8, 1, 1, 3)}, torch.ones(8, 1))
    assert torch.equal(held_out(Cache(tmp_path / "few", skip_bad_shards=True)), mask[:IMAGES])


@pytest.mark.parametrize("point", [POINT, "text_encoder.text_model.encoder.layers.8"])
def test_every_label_has_an_image_held_out_and_one_to_train_on(tmp_path, point):
    """Of a text encoder all seeds of a prompt go together."""
    images = [CachedImage(f"a {name}", seed, {"object": [str(name)]}) for seed in range(4) for name in range(50)]
    images += [CachedImage(f"one more {name}", 0, {"object": [str(name)]}) for name in range(50)]
    settings = replace(SETTINGS, hookpoints={point: 3}, images=images, images_per_shard=250)
    CacheWriter(tmp_path, settings).write_shard(0, {point: torch.zeros(250, 1, 1, 3)}, torch.ones(250, 1))
    cache = Cache(tmp_path)
    mask, labels = held_out(cache), cache.labels([("object", str(name)) for name in range(50)])
    assert (labels[mask].any(dim=0) & labels[~mask].any(dim=0)).all()
    if point != POINT:
        held = {images[place].prompt for place in mask.nonzero()[:, 0].tolist()}
        assert held.isdisjoint(images[place].prompt for place in (~mask).nonzero()[:, 0].tolist())


def divided(folder: Path, images: list[CachedImage]) -> bool:
    """Whether every label is in some and not all of the images held out, and of those to train on."""
    settings = replace(SETTINGS, images=images, images_per_shard=len(images))
    CacheWriter(folder, settings).write_shard(0, {POINT: torch.zeros(len(images), 1, 1, 3)}, torch.ones(len(images), 1))
    cache = Cache(folder)
    mask = held_out(cache)
    labels = cache.labels([(group, name) for group, names in cache.groups().items() for name in names])
    return all((part.any(dim=0) & ~part.all(dim=0)).all() for part in (labels[mask], labels[~mask]))


def test_a_label_that_most_images_have_is_lacking_in_one_held_out_and_in_one_to_train_on(tmp_path):
    for lacking in range(2, 6):
        images = [CachedImage(f"scene {lacking}", seed, {"object": [f"{seed % 4}"]}) for seed in range(100)]
        for image in images[lacking:]:
            image.labels["style"] = ["wavy"]
        assert divided(tmp_path / f"{lacking}", images), lacking


def test_few_images_are_divided_so_that_no_label_takes_from_another_what_it_needs(tmp_path):
    for number in range(60):
        images = [
            CachedImage(f"world {number}: {shape} {style}", 0, {"object": [f"{shape}"], "style": [f"{style}"]})
            for shape in range(4)
            for style in range(3)
        ]
        assert divided(tmp_path / f"{number}", images), number
