"""What an SAE is judged by while it trains."""

import pytest
import torch

from pure.planted import HOOKPOINT, POSITIONS, plant, write_cache
from sae_eraser.training import hookpoint_data
from sae_eraser.training import stream as stream_module
from sae_eraser.training.cache.reader import Cache
from sae_eraser.training.hookpoint_data import some_maps
from sae_eraser.training.stream import Stream


@pytest.fixture
def stream(tmp_path, monkeypatch) -> Stream:
    monkeypatch.setattr(hookpoint_data, "VALIDATION_VECTORS", 8 * POSITIONS)
    cache = Cache(write_cache(tmp_path / "cache", plant(range(8)), branch="both"))
    return Stream(cache, HOOKPOINT, torch.ones(len(cache.images), dtype=torch.bool), buffer_bytes=2**20, seed=0)


def test_few_labels_are_judged_by_whole_maps(stream):
    for found, expected in zip(some_maps(stream, 8), next(stream.maps(8)), strict=True):
        assert torch.equal(found, expected)


def test_of_many_labels_more_maps_are_taken_with_fewer_positions(stream):
    maps, unprompted, images = some_maps(stream, 20)
    assert len(maps) == len(unprompted) == len(images) == 24
    assert maps.shape[1] == unprompted.shape[1] == POSITIONS // 3
    some = stream.maps(8)
    for part in range(3):
        whole, without, own = next(some)
        assert torch.equal(images[8 * part : 8 * part + 8], own)
        for found, by, other, there in zip(maps[8 * part :], whole, unprompted[8 * part :], without, strict=False):
            places = [int((by == vector).all(dim=1).nonzero()[0, 0]) for vector in found]
            assert len(set(places)) == POSITIONS // 3 and torch.equal(other, there[places])


def test_from_loads_that_are_smaller_than_a_batch_as_many_maps_are_taken(stream, monkeypatch):
    monkeypatch.setattr(stream_module, "PIECE_BYTES", 1)
    cache = stream.cache
    tiny = Stream(cache, HOOKPOINT, stream.images, buffer_bytes=1, seed=0)
    assert max(tiny.maps_of_a_load) < 8
    maps, unprompted, images = some_maps(tiny, 20)
    assert 20 <= len(maps) == len(unprompted) == len(images) < 28
    assert maps.shape[1] == 8 * POSITIONS // len(maps)


def test_no_map_is_taken_twice(stream):
    assert len(some_maps(stream, 10**6)[0]) == stream.maps_in_all
