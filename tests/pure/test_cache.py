"""The activation cache: written shard by shard, continued after a stop, checked when read."""

import errno
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from folder_contents import contents
from sae_eraser.training.cache import reader
from sae_eraser.training.cache import writer as writer_module
from sae_eraser.training.cache.manifest import CachedImage, CacheError, CacheSettings, begun_images_per_shard
from sae_eraser.training.cache.reader import Cache
from sae_eraser.training.cache.storage import STORAGES, restored
from sae_eraser.training.cache.writer import CacheWriter

MID, UP = "mid_block.attentions.0", "up_blocks.1.attentions.1"
SETTINGS = CacheSettings(
    "SD15",
    {MID: 4, UP: 2},
    "output",
    {"steps": 3, "cfg": 7.0, "sampler_name": "euler"},
    [
        CachedImage("a disc", 0, {"object": ["disc"]}),
        CachedImage("a wavy box", 0, {"object": ["box"], "style": ["wavy"]}),
        CachedImage("nothing", 0, {}),
        CachedImage("a disc and a box", 1, {"object": ["disc", "box"]}),
        CachedImage("a box", 1, {"object": ["box"]}),
    ],
    images_per_shard=2,
)


def vectors(images: range = range(5)) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What is to be written for these images; 3 maps of 6 positions, at the same noise levels."""
    generator = torch.Generator().manual_seed(0)
    activations = {
        name: torch.randn(5, 3, 6, width, generator=generator)[images.start : images.stop]
        for name, width in SETTINGS.hookpoints.items()
    }
    return activations, torch.rand(3, generator=generator).repeat(len(images), 1)


def write(folder: Path, *shards: int, settings: CacheSettings = SETTINGS) -> CacheWriter:
    writer = CacheWriter(folder, settings)
    for shard in shards:
        writer.write_shard(shard, *vectors(settings.shard_images(shard)))
    return writer


@pytest.fixture
def folder(tmp_path) -> Path:
    """A finished cache of three shards, the last of them with one image."""
    write(tmp_path / "cache", 0, 1, 2)
    return tmp_path / "cache"


@pytest.mark.parametrize("storage", STORAGES)
def test_what_is_written_is_read_back(tmp_path, storage):
    write(tmp_path, 0, 1, 2, settings=replace(SETTINGS, storage=storage))
    cache = Cache(tmp_path)
    assert cache.settings == replace(SETTINGS, storage=storage)
    activations, sigmas = vectors()
    error = {"fp16": 5e-4, "bf16": 4e-3, "int8": 5e-3}[storage]
    for name, expected in activations.items():
        assert cache.shape(name) == (3, 6, SETTINGS.hookpoints[name])
        for image in range(5):
            read = cache.read_image(name, image)
            assert read.dtype == torch.float32
            assert ((read - expected[image]).abs() <= error * expected[image].abs().amax(-1, keepdim=True)).all()
    assert torch.equal(torch.cat([cache.sigmas(shard) for shard in cache.shards]), sigmas)


@pytest.mark.parametrize("storage", STORAGES)
def test_any_run_of_maps_is_read_in_order(tmp_path, storage):
    write(tmp_path, 0, 1, 2, settings=replace(SETTINGS, storage=storage))
    cache = Cache(tmp_path)
    whole = torch.cat([cache.read_image(UP, 2), cache.read_image(UP, 3)])
    for first, last in ((0, 6), (0, 1), (2, 4), (3, 6), (5, 6)):
        read = restored(*cache.read(UP, 1, first, last))
        assert torch.equal(read, whole[first:last])


def test_labels_are_found_by_group_and_name(folder):
    cache = Cache(folder)
    assert cache.groups() == {"object": ["disc", "box"], "style": ["wavy"]}
    labels = cache.labels([("object", "box"), ("style", "wavy"), ("style", "box")])
    assert labels[:, 0].tolist() == [False, True, False, True, True]
    assert labels[:, 1].tolist() == [False, True, False, False, False]
    assert not labels[:, 2].any()


def test_nothing_is_written_before_the_first_shard(tmp_path):
    assert CacheWriter(tmp_path / "new", SETTINGS).missing() == [0, 1, 2]
    assert not (tmp_path / "new").exists()
    assert begun_images_per_shard(tmp_path / "new") is None


def test_a_cache_goes_on_where_it_was_stopped(folder, tmp_path):
    write(tmp_path / "stopped", 0, 2)
    assert begun_images_per_shard(tmp_path / "stopped") == 2
    writer = CacheWriter(tmp_path / "stopped", SETTINGS)
    assert writer.missing() == [1]
    writer.write_shard(1, *vectors(range(2, 4)))
    assert contents(tmp_path / "stopped") == contents(folder)


def test_machines_write_every_nth_shard_of_one_cache(folder, tmp_path):
    for part in range(2):
        write(tmp_path / "shared", *CacheWriter(tmp_path / "shared", SETTINGS).missing(part, 2))
        write(tmp_path / f"alone{part}", *CacheWriter(tmp_path / f"alone{part}", SETTINGS).missing(part, 2))
    assert contents(tmp_path / "shared") == contents(folder)
    assert contents(tmp_path / "alone0") | contents(tmp_path / "alone1") == contents(folder)
    assert "shard-00001.json" not in contents(tmp_path / "alone0")


def test_a_stop_while_a_shard_is_written_loses_that_shard_alone(folder, tmp_path, monkeypatch):
    writer = write(tmp_path / "stopped", 0)

    def stop(*arguments):
        raise KeyboardInterrupt

    for moment in ("replace", "fsync"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, moment, stop)
            writer.write_shard(1, *vectors(range(2, 4)))
        writer = CacheWriter(tmp_path / "stopped", SETTINGS)
        assert writer.missing() == [1, 2]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(writer_module, "facts_of", stop)  # between a shard and its checksum
        writer.write_shard(1, *vectors(range(2, 4)))
    assert CacheWriter(tmp_path / "stopped", SETTINGS).missing() == [1, 2]
    write(tmp_path / "stopped", 1, 2)
    assert contents(tmp_path / "stopped") == contents(folder)


def test_what_a_killed_process_left_of_a_shard_goes_when_it_is_written_again(folder, tmp_path):
    write(tmp_path / "killed", 0, 2)
    left = tmp_path / "killed" / "shard-00001.safetensors.4711.part"
    left.mkdir()
    (left / ".tmp4Zq9").write_bytes(b"half")
    write(tmp_path / "killed", 1)
    assert contents(tmp_path / "killed") == contents(folder)


@pytest.mark.parametrize("full", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("name", ["fsync", "save_file"])
def test_a_full_disk_is_named_and_the_cache_goes_on(folder, tmp_path, monkeypatch, full, name):
    writer = write(tmp_path / "full", 0)

    def fail(*arguments):
        if name == "fsync":
            raise OSError(full, os.strerror(full))
        raise SafetensorError(f"I/O error: {os.strerror(full)} (os error {full})")

    with monkeypatch.context() as patch:
        patch.setattr(os if name == "fsync" else writer_module, name, fail)
        with pytest.raises(CacheError, match=f"disk of {tmp_path / 'full'} is full.*goes on at shard-00001"):
            writer.write_shard(1, *vectors(range(2, 4)))
    assert not list((tmp_path / "full").glob("*.part"))
    write(tmp_path / "full", *CacheWriter(tmp_path / "full", SETTINGS).missing())
    assert contents(tmp_path / "full") == contents(folder)


def test_a_finished_cache_has_nothing_left_to_do(folder):
    before = contents(folder)
    assert CacheWriter(folder, SETTINGS).missing() == []
    assert contents(folder) == before


@pytest.mark.parametrize(
    "changed, difference",
    [
        ({"model_family": "SDXL"}, f"model_family was {SETTINGS.model_family}, is SDXL"),
        ({"hookpoints": {MID: 5, UP: 2}}, f"{MID} was 4, is 5"),
        ({"hookpoints": {MID: 4}}, f"{UP} was 2, is missing"),
        ({"hookpoints": SETTINGS.hookpoints | {"middle_block.0": 3}}, "middle_block.0 was missing, is 3"),
        ({"hooked": "residual"}, "hooked was output, is residual"),
        ({"sampling": SETTINGS.sampling | {"steps": 4, "cfg": 5.0}}, "steps was 3, is 4; cfg was "),
        ({"images": SETTINGS.images[:3]}, "prompts, labels, seeds or first_seed differ"),
        ({"storage": "int8"}, "storage was fp16, is int8"),
        ({"images_per_shard": 3}, "images_per_shard was 2, is 3"),
    ],
)
def test_a_cache_with_other_settings_is_left_alone_and_these_are_named(folder, changed, difference):
    before = contents(folder)
    with pytest.raises(CacheError) as error:
        CacheWriter(folder, replace(SETTINGS, **changed))
    message = str(error.value)
    assert message.startswith(f"{folder} ") and "another name" in message
    assert difference in message.partition("other settings (")[2]
    assert contents(folder) == before


def test_two_machines_that_begin_at_once_with_other_settings_do_not_mix(tmp_path):
    one, other = CacheWriter(tmp_path, SETTINGS), CacheWriter(tmp_path, replace(SETTINGS, hooked="residual"))
    one.write_shard(0, *vectors(range(0, 2)))
    before = contents(tmp_path)
    with pytest.raises(CacheError, match="other settings"):
        other.write_shard(1, *vectors(range(2, 4)))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_activations_that_fp16_cannot_hold_are_refused(tmp_path, value):
    activations, sigmas = vectors(range(0, 2))
    activations[MID][0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=MID):
        CacheWriter(tmp_path / "cache", SETTINGS).write_shard(0, activations, sigmas)
    assert not (tmp_path / "cache").exists()


def test_an_unfinished_cache_is_refused(tmp_path):
    write(tmp_path, 0, 2)
    with pytest.raises(CacheError, match=f"{tmp_path} holds 2 of 3 shards. Run the collection again"):
        Cache(tmp_path)


def test_a_folder_that_is_no_cache_is_refused(tmp_path):
    with pytest.raises(CacheError, match=f"{tmp_path} is no activation cache"):
        Cache(tmp_path)


def test_a_file_in_place_of_the_folder_is_no_cache(folder):
    with pytest.raises(CacheError, match="manifest.json is no activation cache"):
        Cache(folder / "manifest.json")


@pytest.mark.parametrize("fault", [errno.EACCES, errno.EIO])
def test_a_manifest_that_the_disk_does_not_give_is_no_reason_to_delete_the_cache(folder, monkeypatch, fault):
    def fails(path: Path) -> str:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(Path, "read_text", fails)
    with pytest.raises(CacheError, match=f"{folder}.*manifest.json cannot be read.*Check its disk") as refusal:
        Cache(folder)
    assert "Delete" not in str(refusal.value)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"{}", b'{"version": 2}', b'{"version": 2, "settings": {}}', b"\xff\xfe"]
)
@pytest.mark.parametrize("use", [Cache, lambda folder: CacheWriter(folder, SETTINGS), begun_images_per_shard])
def test_a_broken_manifest_is_named(folder, text, use):
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(CacheError, match=f"{folder}.*cannot be read.*collect again"):
        use(folder)


@pytest.mark.parametrize("version", [1, 3, "1.0"])
def test_a_cache_of_another_version_is_refused(folder, version):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"version": version}))
    with pytest.raises(CacheError, match=f"format {version}, this pack reads 2. Collect it again"):
        Cache(folder)


def missing_shard(path: Path) -> None:
    path.unlink()


def truncated_shard(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flipped_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def broken_checksum(path: Path) -> None:
    path.with_suffix(".json").write_text("{}")


def missing_checksum(path: Path) -> None:
    path.with_suffix(".json").unlink()


@pytest.mark.parametrize(
    "damage, message",
    [
        (missing_shard, "shard-00001.safetensors is missing.*delete shard-00001.json and collect again"),
        (truncated_shard, "shard-00001.safetensors has [0-9]+ bytes instead of [0-9]+.*collect again"),
        (flipped_bit, "shard-00001.safetensors is damaged.*checksum is wrong"),
        (broken_checksum, "shard-00001.safetensors has a checksum file that cannot be read.*collect again"),
        (missing_checksum, "holds 2 of 3 shards.*--skip-bad-shards"),
    ],
)
def test_a_bad_shard_is_named_or_left_out(folder, damage, message):
    damage(folder / "shard-00001.safetensors")
    with pytest.raises(CacheError, match=message):
        list(Cache(folder).verify())
    cache = Cache(folder, skip_bad_shards=True)
    assert len(list(cache.verify())) == (3 if damage is flipped_bit else 2)
    assert cache.bad_shards == ["shard-00001.safetensors"]
    assert (cache.shards, cache.images) == ([0, 2], [0, 1, 4])
    expected = vectors()[0][MID][4].half().float()
    assert torch.equal(cache.read_image(MID, 4), expected)


def test_a_shard_that_the_disk_does_not_give_is_named_or_left_out(folder, monkeypatch):
    read = reader.sha256_of

    def fails(path: Path) -> str:
        if path.name == "shard-00001.safetensors":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    monkeypatch.setattr(reader, "sha256_of", fails)
    with pytest.raises(CacheError, match="shard-00001.safetensors cannot be read.*--skip-bad-shards"):
        list(Cache(folder).verify())
    cache = Cache(folder, skip_bad_shards=True)
    assert len(list(cache.verify())) == 3
    assert (cache.shards, cache.bad_shards) == ([0, 2], ["shard-00001.safetensors"])


def test_a_bad_shard_is_made_anew_when_its_checksum_file_is_deleted(folder):
    before = contents(folder)
    flipped_bit(folder / "shard-00001.safetensors")
    (folder / "shard-00001.json").unlink()
    write(folder, *CacheWriter(folder, SETTINGS).missing())
    assert contents(folder) == before


@pytest.mark.parametrize("shard", [0, 1])
@pytest.mark.parametrize("change", ["noise levels", "positions", "images", "hookpoint"])
def test_a_shard_of_another_collection_is_named_or_left_out(folder, change, shard):
    """As when folders of several machines are put together of which one collected something else."""
    path = folder / f"shard-0000{shard}.safetensors"
    tensors = load_file(path)
    if change == "noise levels":
        tensors["sigmas"] = tensors["sigmas"] * 2
    elif change == "hookpoint":
        del tensors[MID]
    else:
        tensors |= {
            name: t[:1] if change == "images" else t[:, :, :-1] for name, t in tensors.items() if name != "sigmas"
        }
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path)
    facts = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    path.with_suffix(".json").write_text(json.dumps(facts))
    with pytest.raises(CacheError, match=f"shard-0000{shard}.safetensors does not fit the others.*--skip-bad-shards"):
        list(Cache(folder).verify())
    cache = Cache(folder, skip_bad_shards=True)
    assert len(list(cache.verify())) == 3
    assert cache.shards == [own for own in range(3) if own != shard]
    assert cache.bad_shards == [f"shard-0000{shard}.safetensors"]


@pytest.mark.parametrize("found, spoiled", [(b"{", b"?"), (b"mid_block", b"mud_block")])
def test_the_shape_comes_from_a_shard_whose_header_can_be_read(folder, found, spoiled):
    path = folder / "shard-00000.safetensors"
    path.write_bytes(path.read_bytes().replace(found, spoiled, 1))
    with pytest.raises(CacheError, match="shard-00000.safetensors cannot be read.*delete shard-00000.json and collect"):
        Cache(folder).shape(MID)
    cache = Cache(folder, skip_bad_shards=True)
    assert cache.shape(MID) == (3, 6, 4)
    assert (cache.shards, cache.bad_shards) == ([1, 2], ["shard-00000.safetensors"])


def test_a_shard_that_goes_away_while_it_is_read_is_named(folder):
    cache = Cache(folder)
    (folder / "shard-00001.safetensors").unlink()
    with pytest.raises(CacheError, match="shard-00001.safetensors cannot be read"):
        cache.read_image(MID, 2)


def test_all_good_shards_are_verified(folder):
    cache = Cache(folder)
    assert sum(cache.verify()) == cache.bytes == sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_an_unknown_hookpoint_lists_those_there_are(folder):
    with pytest.raises(CacheError, match=f"nothing of 'mid'.*{MID}, {UP}"):
        Cache(folder).shape("mid")
