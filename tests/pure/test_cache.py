"""The activation cache: written shard by shard, continued after a stop, checked when read."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sae_eraser.training.cache import Cache, CachedImage, CacheError, CacheSettings, CacheWriter

SETTINGS = CacheSettings(
    "SD15",
    {"mid_block.attentions.0": 4, "up_blocks.1.attentions.1": 2},
    "output",
    {"steps": 3, "cfg": 7.0, "sampler_name": "euler"},
    [
        CachedImage("a disc", 0, {"object": ["disc"]}),
        CachedImage("a wavy box", 0, {"object": ["box"], "style": ["wavy"]}),
        CachedImage("nothing", 0, {}),
        CachedImage("a disc and a box", 1, {"object": ["disc", "box"]}),
    ],
)


def shard(images: slice) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What is to be written for these images; 3 steps and maps of 2 x 3 positions."""
    generator = torch.Generator().manual_seed(0)
    activations = {
        name: torch.randn(4, 3, 6, width, generator=generator)[images] for name, width in SETTINGS.hookpoints.items()
    }
    return activations, torch.rand(4, 3, generator=generator)[images]


def write(folder: Path, *shards: slice, settings: CacheSettings = SETTINGS) -> CacheWriter:
    writer = CacheWriter(folder, settings)
    for images in shards:
        writer.write_shard(*shard(images))
    return writer


@pytest.fixture
def folder(tmp_path) -> Path:
    """A finished cache of two shards."""
    write(tmp_path / "cache", slice(0, 3), slice(3, 4))
    return tmp_path / "cache"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_written_is_read_back_in_fp16(folder):
    cache = Cache(folder)
    assert cache.settings == SETTINGS
    activations, sigmas = shard(slice(None))
    for name in SETTINGS.hookpoints:
        read, read_sigmas = cache.read(name)
        assert torch.equal(read, activations[name].half())
        assert torch.equal(read_sigmas, sigmas)


def test_labels_are_found_by_group_and_name(folder):
    cache = Cache(folder)
    assert cache.groups() == {"object": ["disc", "box"], "style": ["wavy"]}
    labels = cache.labels([("object", "box"), ("style", "wavy"), ("style", "box")])
    assert labels.tolist() == [[False, False, False], [True, True, False], [False, False, False], [True, False, False]]


def test_a_cache_goes_on_where_it_was_stopped(folder, tmp_path):
    write(tmp_path / "stopped", slice(0, 3))
    writer = CacheWriter(tmp_path / "stopped", SETTINGS)
    assert writer.images_done == 3
    writer.write_shard(*shard(slice(3, 4)))
    assert contents(tmp_path / "stopped") == contents(folder)


def test_a_stop_while_a_shard_is_written_loses_that_shard_alone(folder, tmp_path, monkeypatch):
    writer = write(tmp_path / "stopped", slice(0, 3))

    def stop(*arguments):
        raise KeyboardInterrupt

    for moment in ("replace", "fsync"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, moment, stop)
            writer.write_shard(*shard(slice(3, 4)))
        writer = CacheWriter(tmp_path / "stopped", SETTINGS)
        assert writer.images_done == 3
    writer.write_shard(*shard(slice(3, 4)))
    assert contents(tmp_path / "stopped") == contents(folder)


def test_a_finished_cache_has_nothing_left_to_do(folder):
    before = contents(folder)
    assert CacheWriter(folder, SETTINGS).images_done == 4
    assert contents(folder) == before


@pytest.mark.parametrize(
    "changed",
    [
        {"model_family": "SDXL"},
        {"hookpoints": {"mid_block.attentions.0": 4}},
        {"hooked": "residual"},
        {"sampling": SETTINGS.sampling | {"steps": 4}},
        {"images": SETTINGS.images[:3]},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_cache_with_other_settings_is_left_alone(folder, changed):
    before = contents(folder)
    with pytest.raises(CacheError, match=f"{folder} .*other settings.*another name"):
        CacheWriter(folder, replace(SETTINGS, **changed))
    assert contents(folder) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_activations_that_fp16_cannot_hold_are_refused(tmp_path, value):
    activations, sigmas = shard(slice(None))
    activations["mid_block.attentions.0"][0, 0, 0, 0] = value
    with pytest.raises(CacheError, match="mid_block.attentions.0"):
        CacheWriter(tmp_path, SETTINGS).write_shard(activations, sigmas)
    assert CacheWriter(tmp_path, SETTINGS).images_done == 0


def test_an_unfinished_cache_is_refused(tmp_path):
    write(tmp_path, slice(0, 3))
    with pytest.raises(CacheError, match=f"{tmp_path} holds 3 of 4 images. Run the collection again"):
        Cache(tmp_path)


def test_a_folder_that_is_no_cache_is_refused(tmp_path):
    with pytest.raises(CacheError, match=f"{tmp_path} is no activation cache"):
        Cache(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 1}', '{"name": "site", "version": "1.0"}'])
@pytest.mark.parametrize("use", [Cache, lambda folder: CacheWriter(folder, SETTINGS)], ids=["read", "write"])
def test_a_broken_manifest_is_named(folder, text, use):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(CacheError, match=str(folder)):
        use(folder)


def test_a_cache_of_a_newer_version_is_refused(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"version": 2}))
    with pytest.raises(CacheError, match="format 2.*Update the pack"):
        Cache(folder)


def test_a_missing_shard_is_named(folder):
    (folder / "shard-00001.safetensors").unlink()
    with pytest.raises(CacheError, match="shard-00001.safetensors cannot be read.*collect again"):
        Cache(folder).read("mid_block.attentions.0")


def test_a_truncated_shard_is_named(folder):
    path = folder / "shard-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CacheError, match="shard-00000.safetensors is damaged.*collect again"):
        Cache(folder).read("mid_block.attentions.0")


def test_one_flipped_bit_is_found(folder):
    path = folder / "shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheError, match="shard-00001.safetensors is damaged.*checksum"):
        Cache(folder).read("up_blocks.1.attentions.1")


def test_an_unknown_hookpoint_lists_those_there_are(folder):
    with pytest.raises(CacheError, match="nothing of 'mid'.*mid_block.attentions.0, up_blocks.1.attentions.1"):
        Cache(folder).read("mid")
