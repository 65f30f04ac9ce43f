"""Batches streamed from a cache: complete, shuffled, the same after a stop, and within their memory."""

import itertools
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pure.training_runs import train, train_elsewhere
from sae_eraser.training import stream as stream_module
from sae_eraser.training.cache.manifest import CachedImage, CacheError, CacheSettings
from sae_eraser.training.cache.reader import Cache
from sae_eraser.training.cache.writer import CacheWriter
from sae_eraser.training.held_out import held_out, readable
from sae_eraser.training.stream import Stream

POINT, MAPS, POSITIONS = "mid_block.attentions.0", 3, 4
IMAGES = 40
SETTINGS = CacheSettings(
    "SD15", {POINT: 3}, "output", {}, [CachedImage("a disc", seed, {}) for seed in range(IMAGES)], images_per_shard=8
)
EVERYONE = torch.ones(IMAGES, dtype=torch.bool)
PIECE = 4 * POSITIONS * 3 * 2  # bytes of 4 maps in fp16: 6 pieces a shard, 30 in all


def numbered() -> torch.Tensor:
    """[images, maps, positions, 3]: every vector says which image, map and position it is."""
    axes = (torch.arange(float(size)) for size in (IMAGES, MAPS, POSITIONS))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def write(
    folder: Path, storage: str = "fp16", vectors: torch.Tensor | None = None, settings: CacheSettings | None = None
) -> Cache:
    settings = settings or replace(SETTINGS, storage=storage)
    writer = CacheWriter(folder, settings)
    everything = numbered() if vectors is None else vectors
    for shard in range(settings.shards):
        part = everything[list(settings.shard_images(shard))]
        writer.write_shard(shard, {POINT: part}, torch.ones(part.shape[:2]))
    return Cache(folder)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Cache:
    return write(tmp_path_factory.mktemp("numbered"))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(stream_module, "PIECE_BYTES", PIECE)


def open_stream(cache: Cache, images: torch.Tensor = EVERYONE, pieces: int = 1000, seed: int = 0) -> Stream:
    """pieces: how many make up a load; all by default."""
    return Stream(cache, POINT, images, buffer_bytes=2 * pieces * PIECE, seed=seed)


def rows(batches) -> list[tuple]:
    return [tuple(row) for batch in batches for row in batch.flatten(0, -2).tolist()]


def take(batches, count: int) -> list:
    return list(itertools.islice(batches, count))


@pytest.mark.parametrize("pieces", [1000, 30, 7, 1])
def test_every_vector_appears_exactly_once_an_epoch(cache, pieces):
    stream = open_stream(cache, pieces=pieces)
    epochs = rows(take(stream.vectors(16), 2 * 480 // 16))
    expected = sorted(rows([numbered()]))
    assert sorted(epochs[:480]) == sorted(epochs[480:]) == expected
    assert epochs[:480] != epochs[480:]
    assert epochs[:480] != expected


@pytest.mark.parametrize("pieces", [1000, 7])
def test_every_map_appears_exactly_once_an_epoch_with_its_image(cache, pieces):
    batches = take(open_stream(cache, pieces=pieces).maps(4), 30)
    assert sorted(rows(maps for maps, *_ in batches)) == sorted(rows([numbered()]))
    for maps, unprompted, images in batches:
        assert unprompted is None
        assert maps.shape == (4, MAPS + 1, 3)
        assert torch.equal(maps[:, :, 0], images[:, None].expand(4, POSITIONS).float())
        assert torch.equal(maps[:, :, 2], torch.arange(4.0).expand(4, POSITIONS))


@pytest.mark.parametrize("pieces", [1000, 7])
@pytest.mark.parametrize("storage", ["fp16", "int8"])
def test_both_halves_of_a_call_come_together(tmp_path, pieces, storage):
    """The same numbers, those of the unconditional half shifted by 100."""
    halves = torch.stack([numbered(), numbered() + 100], dim=2).flatten(1, 2)
    settings = replace(SETTINGS, storage=storage, sampling={"branch": "both"})
    cache = write(tmp_path, vectors=halves, settings=settings)
    batches = take(open_stream(cache, pieces=pieces).maps(2), 60)
    for maps, unprompted, images in batches:
        torch.testing.assert_close(unprompted - 100, maps, atol=0.8, rtol=0)
        assert (maps[:, :, 0] - images[:, None]).abs().max() < 0.4
    assert sorted(row[0] for row in rows(maps.round() for maps, *_ in batches)) == sorted(
        row[0] for row in rows([numbered()])
    )


def test_images_that_are_not_chosen_never_appear(cache):
    chosen = ~held_out(cache)
    chosen[8:16] = False  # a whole shard
    assert 0 < (~chosen[16:]).sum()
    for pieces in (1000, 7, 1):
        epoch = rows(take(open_stream(cache, chosen, pieces).vectors(1), int(chosen.sum()) * MAPS * POSITIONS))
        assert sorted(epoch) == sorted(rows([numbered()[chosen]]))


def test_no_image_at_all_is_an_error(cache):
    with pytest.raises(CacheError, match="no image to train on.*more seeds"):
        open_stream(cache, ~EVERYONE)


@pytest.mark.parametrize("kind, batch", [("vectors", 7), ("vectors", 100), ("maps", 5)])
@pytest.mark.parametrize("pieces", [1000, 7, 1])
def test_a_batch_is_the_same_wherever_the_stream_was_started(cache, kind, batch, pieces):
    """Over the ends of loads and epochs, whether batches divide a load or not, or are larger than it."""

    def flat(item):
        return rows([item if kind == "vectors" else item[0]])

    straight = take(getattr(open_stream(cache, pieces=pieces), kind)(batch), 90)
    for start in (1, 2, 3, 5, 8, 13, 21, 34, 55, 85):
        again = take(getattr(open_stream(cache, pieces=pieces), kind)(batch, start), 5)
        assert [flat(item) for item in again] == [flat(item) for item in straight[start : start + 5]], start


def test_a_batch_larger_than_a_load_is_the_load(cache):
    first = next(open_stream(cache, pieces=2).vectors(1000))
    assert len(first) == 2 * 4 * POSITIONS
    assert len(set(rows([first]))) == len(first)


def test_another_seed_gives_another_order(cache):
    orders = [rows(take(open_stream(cache, pieces=7, seed=seed).vectors(16), 30)) for seed in (0, 1, 0)]
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    first_loads = [set(order[: 7 * 4 * POSITIONS]) for order in orders]
    assert first_loads[0] != first_loads[1]


def test_only_two_loads_are_read_at_a_time(cache, monkeypatch):
    read = []
    original = Cache.read

    def spy(self, hookpoint, shard, first, last):
        read.append((shard, first, last))
        return original(self, hookpoint, shard, first, last)

    monkeypatch.setattr(Cache, "read", spy)
    stream = open_stream(cache, pieces=7).vectors(16)
    next(stream)
    stream.close()
    assert 7 <= len(read) <= 14
    stream = open_stream(cache, pieces=7).vectors(16)
    read.clear()
    take(stream, 30)
    stream.close()
    assert len(set(read)) == 30


def test_a_stream_that_is_not_needed_any_more_waits_for_nothing(cache, monkeypatch):
    """Ctrl-C would be lost in that time, as Python ignores what is raised while a generator is thrown away."""
    read, reading, let_go = [], threading.Event(), threading.Event()
    original = Cache.read

    def slow(self, *place):
        if len(read) == 7:
            reading.set()
            let_go.wait(20)
        read.append(place)
        return original(self, *place)

    monkeypatch.setattr(Cache, "read", slow)
    opened = open_stream(cache, pieces=7)
    stream = opened.vectors(16)
    next(stream)
    assert reading.wait(20)
    stream.close()
    assert len(read) == 7
    let_go.set()
    next(opened.vectors(16))
    assert read[8:15] == read[:7], "of the load that was being read when it was closed one piece more, and no other"


def test_a_cache_that_fits_is_read_once(cache, monkeypatch):
    read = []
    original = Cache.read
    monkeypatch.setattr(Cache, "read", lambda self, *place: read.append(place) or original(self, *place))
    stream = open_stream(cache)
    take(stream.vectors(16), 70)
    take(stream.maps(4, start=3), 70)
    assert len(read) == len(set(read)) == 30


def test_int8_gives_the_vectors_that_the_cache_restores(tmp_path):
    random = torch.randn(IMAGES, MAPS, POSITIONS, 3, generator=torch.Generator().manual_seed(0))
    cache = write(tmp_path, "int8", random)
    expected = [cache.read_image(POINT, image) for image in range(IMAGES)]
    assert not torch.equal(torch.stack(expected), random)
    assert sorted(rows(take(open_stream(cache, pieces=7).vectors(16), 30))) == sorted(rows(expected))
    for maps, _, images in take(open_stream(cache, pieces=7).maps(4), 30):
        for one, image in zip(maps, images.tolist(), strict=True):
            assert any(torch.equal(one, other) for other in expected[image])


@pytest.mark.parametrize("storage, spoiled", [("fp16", POINT), ("bf16", POINT), ("int8", POINT + ".scale")])
def test_a_nan_in_a_shard_is_an_error_that_names_the_shard(tmp_path, storage, spoiled):
    cache = write(tmp_path, storage)
    path = tmp_path / "shard-00003.safetensors"
    tensors = load_file(path)
    tensors[spoiled][5, 1, 2] = float("nan")
    save_file(tensors, path)
    for kind in ("vectors", "maps"):
        with pytest.raises(CacheError, match="[Ss]hard.*0*3.*NaN"):
            take(getattr(open_stream(cache, pieces=7), kind)(4), 120)


def test_what_is_left_over_of_an_epoch_is_no_small_batch(cache):
    """Of 120 maps a load holds 28 and a batch 12: the last load is too small for one."""
    batches = take(open_stream(cache, pieces=7).maps(12), 2 * 4 * 2)
    assert {len(maps) for maps, _, _ in batches} == {12}
    small = take(open_stream(cache).maps(200), 2)
    assert [len(maps) for maps, _, _ in small] == [120, 120], "all that there is is a batch"


def test_images_of_bad_shards_are_not_readable(tmp_path):
    write(tmp_path)
    (tmp_path / "shard-00001.safetensors").unlink()
    cache = Cache(tmp_path, skip_bad_shards=True)
    assert readable(cache).nonzero()[:, 0].tolist() == [*range(8), *range(16, 40)]
    assert sorted(rows(take(open_stream(cache, readable(cache)).vectors(16), 24))) == sorted(
        rows([numbered()[readable(cache)]])
    )


def test_fewer_maps_a_step_than_asked_for_are_announced(tmp_path, recwarn):
    """All maps are 3 of each image; a piece holds 4."""
    images = [CachedImage(f"a {name}", seed, {"object": [name]}) for seed in range(20) for name in ("disc", "box")]
    maps = torch.randn(40, MAPS, POSITIONS, 3, generator=torch.Generator().manual_seed(0))
    cache = write(tmp_path / "cache", vectors=maps, settings=replace(SETTINGS, images=images))
    everything = MAPS * int((~held_out(cache)).sum())
    sizes = "--latents 16 --k 1 --vectors 16 --unsupervised-steps 1 --supervised-steps 1 --overwrite".split()

    def said(pieces: int, maps: int) -> list[str]:
        recwarn.clear()
        options = (*sizes, "--memory", 2 * pieces * PIECE / 2**30, "--maps", maps)
        assert train(tmp_path / "cache", tmp_path / "sae.safetensors", *options) == 0
        return [str(warning.message) for warning in recwarn if "A step has" in str(warning.message)]

    assert said(1000, everything) == said(2, 8) == []
    (few,), (all_of_them,) = said(2, 9), said(1000, everything + 1)
    assert "A step has 8 maps, not 9" in few and "Raise --memory" in few
    assert f"A step has {everything} maps, not {everything + 1}" in all_of_them


def write_large(folder: Path, shards: int) -> Path:
    """About 20 MB a shard: 320 images of 4 maps of 64 vectors of width 128."""
    names = ["disc", "box"] * (160 * shards)
    images = [CachedImage(f"a {name}", seed, {"object": [name]}) for seed, name in enumerate(names)]
    writer = CacheWriter(folder, CacheSettings("SD15", {POINT: 128}, "output", {}, images, images_per_shard=320))
    maps = torch.randn(320, 4, 64, 128, generator=torch.Generator().manual_seed(0))
    maps = (maps + 2 * (torch.arange(320) % 2)[:, None, None, None]).half()
    for shard in range(shards):
        writer.write_shard(shard, {POINT: maps}, torch.tensor([8.0, 4.0, 2.0, 1.0]).repeat(320, 1))
    return folder


def test_memory_does_not_grow_with_the_cache_nor_with_what_was_read(tmp_path):
    """With --memory of 32 MiB: a training on 420 MB, of which it reads 190, against one with a tenth of everything."""
    options = f"--memory {32 / 1024} --latents 16 --k 1 --vectors 8192 --maps 128 --statistics-vectors 4000"
    peaks = []
    for shards in (2, 20):
        folder = write_large(tmp_path / "cache", shards)
        assert Cache(folder).bytes > 20e6 * shards
        steps = ("--unsupervised-steps", 3 * shards, "--supervised-steps", 3 * shards // 2)
        peaks.append(train_elsewhere(folder, tmp_path / f"{shards}.safetensors", *options.split(), *steps))
        shutil.rmtree(folder)
    assert peaks[1] - peaks[0] < 80e6
