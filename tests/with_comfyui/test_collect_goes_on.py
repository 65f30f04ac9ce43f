"""Collect Activations goes on where it was stopped, on one machine or several, and minds the disk."""

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path

import folder_paths
import pytest
from comfy.model_management import InterruptProcessingException

from folder_contents import contents
from sae_eraser.nodes.collect import cache_filling
from sae_eraser.nodes.collect.cache_filling import read_share
from sae_eraser.training.cache import writer
from sae_eraser.training.cache.manifest import CacheError
from with_comfyui.collecting import IMAGE_BYTES, collector, interrupting
from with_comfyui.sampling import with_probe


@pytest.fixture
def collect(world, tmp_path, monkeypatch):
    return collector(world, tmp_path, monkeypatch)


@pytest.mark.parametrize("changed", [{}, {"storage": "int8", "keep_positions": 8, "branch": "both"}], ids=str)
def test_after_an_interrupt_the_same_bytes_come_out(collect, world, changed):
    whole = contents(collect("whole", **changed))
    folder = Path(folder_paths.get_output_directory(), "sae_cache", "stopped")
    for call in (2, 9):
        with pytest.raises(InterruptProcessingException):
            collect("stopped", model=interrupting(world, call), **changed)
    assert {"shard-00000.json"} < contents(folder).keys() < whole.keys()
    assert collect("stopped", **changed) == folder
    assert contents(folder) == whole


def test_a_finished_cache_is_not_sampled_again(collect, world):
    collect()
    calls = []
    collect(model=with_probe(world.model, lambda *arguments: calls.append(1)))
    assert not calls


def test_a_resumed_cache_samples_only_what_is_missing(collect, world):
    before = contents(collect())
    (Path(folder_paths.get_output_directory()) / "sae_cache" / "cache" / "shard-00001.json").unlink()
    sizes = []
    assert contents(collect(model=with_probe(world.model, lambda x, options: sizes.append(len(x))))) == before
    assert sizes == [4, 4, 2, 2]  # two and one images of shard 1, cond and uncond, two steps each


@pytest.mark.parametrize("shard_images", [3, 2])
def test_two_machines_fill_one_cache(collect, monkeypatch, shard_images):
    monkeypatch.setattr(cache_filling, "SHARD_BYTES", shard_images * IMAGE_BYTES)
    whole = contents(collect("whole"))
    for shard in ("2/2", "1/2"):
        shared, alone = collect("shared", shard=shard), collect(f"alone{shard[0]}", shard=shard)
    assert contents(shared) == whole
    merged = contents(alone) | contents(alone.with_name("alone2"))
    assert merged == whole
    assert contents(alone).keys() & contents(alone.with_name("alone2")).keys() == {"manifest.json"}


def test_a_machine_without_a_share_does_no_harm(collect):
    whole = contents(collect("whole"))
    folder = collect("shared", shard="9/9")
    assert not folder.exists()
    for part in range(1, 9):
        collect("shared", shard=f"{part}/9")
    assert contents(folder) == whole


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2", "1.0/2"])
def test_a_share_that_makes_no_sense_is_refused(collect, tmp_path, text):
    with pytest.raises(ValueError, match=f"shard '{text}' does not say which machine.*Write 1/1"):
        collect(shard=text)
    assert not list(tmp_path.rglob("*.json"))


def test_a_share_may_be_written_with_spaces():
    assert read_share(" 2 / 3 ") == (1, 3)


Usage = namedtuple("Usage", "total used free")


def test_a_disk_that_cannot_hold_it_is_refused_before_anything_is_written(collect, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12, 100_000))
    with pytest.raises(
        ValueError, match=f"needs [0-9]+.[0-9] kB more, but the disk of {tmp_path}.* has 100.0 kB free.*int8"
    ):
        collect()
    assert not list(tmp_path.rglob("*.json"))
    collect(keep_positions=4)


def test_only_what_is_missing_must_fit_the_disk(collect, world, monkeypatch):
    whole = contents(collect("whole"))
    with pytest.raises(InterruptProcessingException):
        collect(model=interrupting(world, 9))
    last = sum(len(content) for name, content in whole.items() if name.startswith("shard-00002"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12, last - 1))
    with pytest.raises(ValueError, match="needs .* more"):
        collect()
    enough = last + cache_filling.FILE_BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12, enough))
    assert contents(collect()) == whole


def test_a_disk_that_fills_up_leaves_a_cache_that_goes_on(collect, monkeypatch):
    whole = contents(collect("whole"))
    save_file = writer.save_file

    def full_at_the_second(tensors, path, metadata):
        if "00001" in path.parent.name:
            path.write_bytes(b"as much as fits")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save_file(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "save_file", full_at_the_second)
        with pytest.raises(CacheError, match="is full. Free some space and run the same again"):
            collect()
    assert contents(collect()) == whole


def test_other_settings_under_the_same_name_are_refused(collect):
    before = contents(collect())
    with pytest.raises(ValueError, match="other settings.*another name"):
        collect(steps=3)
    assert contents(collect()) == before
