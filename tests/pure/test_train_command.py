"""`sae-eraser train` when something is wrong: one line says what and what to do, and nothing is left behind."""

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pure.planted import HOOKPOINT, WIDTH, Planted, plant, write_cache
from pure.sae_files import write_good_file
from pure.training_runs import QUICK, train
from sae_eraser.sae_ops.atomic_write import write_atomically
from sae_eraser.sae_ops.sae_file import read_header
from sae_eraser.training.cache.manifest import CachedImage, CacheSettings
from sae_eraser.training.cache.writer import CacheWriter
from sae_eraser.training.commands import train_command
from sae_eraser.training.config import TrainingConfig
from sae_eraser.training.progress import read_progress_line


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return write_cache(tmp_path_factory.mktemp("planted") / "cache", plant(range(15)))


@pytest.fixture
def own_cache(cache, tmp_path) -> Path:
    """To be spoiled."""
    return shutil.copytree(cache, tmp_path / "cache")


def test_what_was_made_is_shown(cache, out, capsys):
    assert train(cache, out, *QUICK) == 0
    text = capsys.readouterr().out
    assert f"{out}: SD15, {HOOKPOINT}" in text
    assert "16 latents of width 16, batchtopk, k = 2" in text


def test_every_part_of_the_work_is_told_by_a_name_of_its_own(cache, out, capsys):
    assert train(cache, out, *QUICK, "--spare-look-alikes", "--progress", "json") == 0
    told = [line for line in map(read_progress_line, capsys.readouterr().out.splitlines()) if line]
    parts = [(phase, list(lines)) for phase, lines in itertools.groupby(told, key=lambda line: line["phase"])]
    assert [phase for phase, _ in parts] == [
        *("check shards", "reconstruct", "choose latents", "compare concepts", "supervise"),
        *("statistics", "look-alikes", "measure"),
    ]
    assert all(lines[-1]["done"] == lines[-1]["total"] for _, lines in parts)


def test_no_cache(tmp_path, refused):
    assert f"{tmp_path / 'none'} is no activation cache" in refused(tmp_path / "none")


def test_an_unknown_hookpoint(cache, refused):
    message = refused(cache, "--hookpoint", "mid")
    assert "'mid'" in message and HOOKPOINT in message


def test_several_hookpoints_and_none_chosen(tmp_path, refused):
    planted = plant(range(1))
    hookpoints = {HOOKPOINT: WIDTH, "up_blocks.0.attentions.1": WIDTH}
    writer = CacheWriter(tmp_path / "two", CacheSettings("SD15", hookpoints, "output", {}, planted.images))
    writer.write_shard(0, dict.fromkeys(hookpoints, planted.maps), planted.sigmas)
    assert f"--hookpoint: {HOOKPOINT}, up_blocks.0.attentions.1" in refused(tmp_path / "two")


def test_pictures_without_labels(tmp_path, refused):
    planted = plant(range(2))
    for image in planted.images:
        image.labels.clear()
    assert "no labels" in refused(write_cache(tmp_path / "bare", planted))


def test_an_unknown_group(cache, refused):
    message = refused(cache, "--groups", "object", "colour")
    assert "no labels of a group 'colour'" in message and "object, style" in message


def with_a_rare_style(seeds: range, shown: set[int]) -> Planted:
    """Pictures of which only those with these numbers have a style of their own."""
    planted = plant(seeds)
    for number, image in enumerate(planted.images):
        image.labels["style"] = ["rare"] if number in shown else ["usual"]
    return planted


def test_of_a_text_encoder_a_label_needs_prompts_and_not_seeds(tmp_path, refused):
    point = "text_encoder.text_model.encoder.layers.8"
    images = [CachedImage(f"a {name}", seed, {"object": [name]}) for name in ("disc", "box") for seed in range(5)]
    writer = CacheWriter(
        tmp_path / "texts", CacheSettings("SD15", {point: WIDTH}, "output", {}, images, images_per_shard=10)
    )
    writer.write_shard(0, {point: torch.randn(10, 1, 7, WIDTH)}, torch.ones(10, 1))
    message = refused(tmp_path / "texts")
    assert "'disc' (object) is in 0 of the" in message
    assert "Collect more prompts (of a text encoder seeds do not count)." in message


def test_a_concept_in_no_validation_image(tmp_path, refused):
    message = refused(write_cache(tmp_path / "rare", with_a_rare_style(range(15), {0})))
    assert "'rare' (style) is in 0 of the" in message
    assert "validation images" in message and "more prompts and seeds" in message


def test_a_concept_in_no_training_image(tmp_path, refused, monkeypatch):
    monkeypatch.setattr("sae_eraser.training.held_out.held_out", lambda cache: torch.arange(90) < 9)
    message = refused(write_cache(tmp_path / "rare", with_a_rare_style(range(15), {0})))
    assert "'rare' (style) is in 0 of the 81 training images" in message


def test_a_concept_in_every_image(tmp_path, refused):
    planted = plant(range(15))
    for image in planted.images:
        image.labels["medium"] = ["photo"]
    message = refused(write_cache(tmp_path / "all", planted))
    assert "'photo' (medium) is in " in message and "without it" in message
    assert "name the other groups with --groups" in message
    for image in planted.images:
        del image.labels["object"], image.labels["style"]
    assert "--groups" not in refused(write_cache(tmp_path / "alone", planted))


def test_groups_without_a_label(tmp_path, refused):
    planted = plant(range(2))
    for image in planted.images:
        image.labels["object"] = []
    message = refused(write_cache(tmp_path / "one", planted), "--groups", "object")
    assert "no labels of a group 'object'. It has: style" in message
    for image in planted.images:
        image.labels["style"] = []
    assert "no labels, so there is no concept" in refused(write_cache(tmp_path / "none", planted))


def test_too_few_pictures_to_hold_some_out(tmp_path, refused):
    planted = plant(range(1))
    two = replace(planted, images=[planted.images[0], planted.images[3]], maps=planted.maps[[0, 3]])
    assert "0 validation images" in refused(write_cache(tmp_path / "few", two))


@pytest.mark.parametrize(
    "options, fault",
    [
        (("--k", "17"), "k is 17.*16"),
        (("--k", "0"), "k is 0"),
        (("--latents", "4"), "5 concepts need.*there are 4 latents"),
        (("--supervised-steps", "-1"), "--supervised-steps is -1"),
        (("--unsupervised-steps", "-1"), "--unsupervised-steps is -1"),
        (("--vectors", "0"), "--vectors is 0"),
        (("--maps", "-3"), "maps is -3"),
        (("--patience", "0"), "patience is 0"),
        (("--statistics-vectors", "0"), "--statistics-vectors is 0"),
        (("--dead-after", "-1"), "--dead-after is -1"),
        (("--concept-weight", "nan"), "--concept-weight is nan, but must be a number"),
        (("--guidance-weight", "-1"), "--guidance-weight is -1"),
        (("--learning-rate", "inf"), "--learning-rate is inf"),
        (("--memory", "inf"), "--memory is inf"),
        (("--memory", "0"), "--memory is 0"),
        (("--learning-rate", "-1"), "--learning-rate is -1"),
        (("--learning-rate", "0"), "--learning-rate is 0"),
    ],
)
def test_numbers_that_do_not_fit(cache, refused, options, fault):
    message = refused(cache, *options)
    assert re.search(fault, message), message


def test_a_name_that_is_too_long_to_be_written_is_refused_before_the_training(cache, out, capsys):
    """Of the file itself it is not, but of what is written first."""
    assert train(cache, out.with_name("m" * 240 + ".safetensors"), *QUICK) == 1
    assert "cannot be written (File name too long). Choose another --out." in capsys.readouterr().err


def test_an_unknown_precision_or_assignment(cache, out, capsys):
    for option, value, known in (("precision", "fp8", "bf16, fp32"), ("assignment", "best", "greedy, optimal")):
        with pytest.raises(SystemExit) as stop:
            train(cache, out, f"--{option}", value)
        assert stop.value.code == 2
        assert f"--{option}: invalid choice: '{value}'" in capsys.readouterr().err
        with pytest.raises(ValueError, match=f"Unknown {option} '{value}'; known are {known}"):
            TrainingConfig(**{option: value})


def test_a_file_that_exists_is_kept_unless_it_shall_be_replaced(cache, out, refused):
    out.parent.mkdir()
    write_good_file(out)
    message = refused(cache)
    assert f"{out} exists" in message and "--overwrite" in message
    assert train(cache, out, *QUICK, "--overwrite") == 0
    assert read_header(out).autoencoder.n_latents == 16


def test_a_folder_in_place_of_the_file(cache, out, refused):
    out.mkdir(parents=True)
    assert str(out) in refused(cache)
    assert str(out) in refused(cache, "--overwrite")


def test_a_folder_that_cannot_be_made(cache, tmp_path, refused):
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in refused(cache, to=tmp_path / "file" / "sae.safetensors")


def test_a_folder_that_cannot_be_written(cache, out, refused, monkeypatch):
    mkdir = os.mkdir

    def denied(path, *args, **kwargs):  # root may write everywhere
        if Path(path).parent == out.parent:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", denied)
    assert f"{out} cannot be written (Permission denied)" in refused(cache)


def test_a_missing_shard(own_cache, out, refused):
    (own_cache / "shard-00001.safetensors").unlink()
    message = refused(own_cache)
    assert "shard-00001.safetensors is missing" in message and "--skip-bad-shards" in message


def spoil(path: Path) -> None:
    """Changes a byte but not the size."""
    content = bytearray(path.read_bytes())
    content[-1000] ^= 0xFF
    path.write_bytes(content)


def test_a_damaged_shard(own_cache, refused):
    spoil(own_cache / "shard-00000.safetensors")
    message = refused(own_cache)
    assert "shard-00000.safetensors is damaged" in message and "--skip-bad-shards" in message


def test_bad_shards_are_skipped_if_asked(tmp_path, out, capsys):
    planted = plant(range(30))
    settings = CacheSettings("SD15", {HOOKPOINT: WIDTH}, "output", {}, planted.images, images_per_shard=45)
    writer = CacheWriter(tmp_path / "four", settings)
    for shard in range(4):
        images = slice(45 * shard, 45 * shard + 45)
        writer.write_shard(shard, {HOOKPOINT: planted.maps[images]}, planted.sigmas[images])
    spoil(tmp_path / "four" / "shard-00002.safetensors")
    (tmp_path / "four" / "shard-00000.safetensors").unlink()
    assert train(tmp_path / "four", out, *QUICK, "--skip-bad-shards") == 0
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert "2 bad shards: shard-00000.safetensors, shard-00002.safetensors" in said
    assert read_header(out).training["images"] == 90


def test_no_shard_is_left(own_cache, refused):
    for path in own_cache.glob("*.safetensors"):
        path.unlink()
    assert "no shard that can be read" in refused(own_cache, "--skip-bad-shards")


def test_a_nan_in_the_cache(own_cache, capsys, out):
    """With a checksum that is right; the writer refuses it, but a cache may come from elsewhere."""
    path = own_cache / "shard-00000.safetensors"
    tensors = load_file(path)
    tensors[HOOKPOINT][2, 1, 3] = float("nan")
    save_file(tensors, path)
    facts = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    path.with_suffix(".json").write_text(json.dumps(facts))
    assert train(own_cache, out, *QUICK) == 1
    message = capsys.readouterr().err.rsplit("\r", 1)[-1]
    assert "hard" in message and "holds NaN or infinity" in message and message.count("\n") == 1
    assert not out.exists()


def test_activations_that_are_the_same_everywhere(tmp_path, refused):
    planted = plant(range(15))
    folder = write_cache(tmp_path / "same", replace(planted, maps=torch.full_like(planted.maps, 1.5)))
    message = refused(folder)
    assert f"In {folder} all activations at {HOOKPOINT} are the same" in message and "--hookpoint" in message


def test_a_learning_rate_that_blows_up(cache, capsys, out):
    assert train(cache, out, *QUICK, "--learning-rate", "1e30") == 1
    message = capsys.readouterr().err.rsplit("\r", 1)[-1]
    assert "--learning-rate" in message
    assert not out.exists()


def test_more_latents_than_memory_holds(cache, capsys, out):
    assert train(cache, out, *QUICK, "--latents", 10**14) == 1  # no system promises more than can be addressed
    message = capsys.readouterr().err.rsplit("\r", 1)[-1]
    assert message.startswith("sae-eraser: The computer has too little memory") and message.count("\n") == 1
    assert "--latents" in message
    assert not out.exists()


def test_ctrl_c(cache, capsys, out, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_command, "build_saes", stopped)
    assert train(cache, out, *QUICK) == 1
    message = capsys.readouterr().err.rsplit("\r", 1)[-1]
    assert message == "sae-eraser: Stopped. Run the same command again: it goes on at its last checkpoint.\n"


def test_ctrl_c_when_the_sae_is_made(cache, capsys, out, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_command, "write_report", stopped)
    assert train(cache, out, *QUICK) == 1
    message = capsys.readouterr().err.rsplit("\r", 1)[-1]
    assert message == f"sae-eraser: Stopped. {out} is made, but what shows how it was trained is not.\n"
    assert out.is_file()


@pytest.mark.parametrize(
    "error, reason",
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "sae.html"), "Permission denied: 'sae.html'"),
    ],
)
def test_a_page_that_cannot_be_written_when_the_sae_is_made(cache, capsys, out, monkeypatch, error, reason):
    """Who runs the same again, as the disk's message says, would be told to replace the SAE and train anew."""

    def refused(page, made):
        def write(part):
            raise error

        write_atomically(page, write)

    monkeypatch.setattr(train_command, "write_report", refused)
    assert train(cache, out, *QUICK) == 1
    message = capsys.readouterr().err.rsplit("\r", 1)[-1]
    assert message.startswith(f"sae-eraser: {out} is made, but what shows how it was trained is not (")
    assert message.endswith(f"{reason}).\n") and "again" not in message and message.count("\n") == 1
    assert out.is_file()


def test_the_same_number_twice_is_one_sae(cache, out, capsys):
    assert train(cache, out, *QUICK, "--k", "2", "2") == 0
    assert out.is_file()


def test_curves_for_tensorboard_without_its_package(cache, refused, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert "pip install tensorboard" in refused(cache, "--tensorboard", tmp_path / "curves")


def test_curves_for_tensorboard(cache, out, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train(cache, out, *QUICK, "--tensorboard", tmp_path / "curves") == 0
    curves = EventAccumulator(str(tmp_path / "curves" / "sae"))
    curves.Reload()
    both = ["fvu", "validation fvu"]
    for phase, names in {"reconstruct": both, "supervise": [*both, "accuracy", "validation accuracy"]}.items():
        for name in names:
            points = curves.Scalars(f"{phase}/{name}")
            assert [point.step for point in points] == [1, 2]
            assert all(0 < point.value < 2 for point in points)


@pytest.mark.parametrize("out", [".", "..", "new/../saes"])
def test_several_saes_go_into_any_folder(cache, tmp_path, monkeypatch, out):
    (tmp_path / "working" / "folder").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "working" / "folder")
    assert train(cache, Path(out), *QUICK, "--k", "1", "2") == 0
    assert len(list(Path(out).glob("*.safetensors"))) == 2
    assert not [path for path in tmp_path.rglob("*.training")]


def test_learning_what_is_drawn_needs_the_half_without_the_prompt(cache, refused):
    message = refused(cache, "--branch", "uncond")
    assert "the prompt's half of guidance alone" in message and "branch both" in message


@pytest.mark.parametrize(
    "out, options, fault",
    [
        ("mine", (), "would not list.*mine.safetensors"),
        ("mine.pt", (), "would not list.*mine.pt.safetensors"),
        ("mine.safetensors", ("--k", "1", "2"), "makes 2 SAEs, so --out must name a folder"),
    ],
)
def test_a_name_that_does_not_fit_what_is_made(cache, tmp_path, capsys, out, options, fault):
    assert train(cache, tmp_path / out, *QUICK, *options) == 1
    assert re.search(fault, capsys.readouterr().err)
    assert os.listdir(tmp_path) == []


def test_more_latents_for_concepts_than_there_are_is_said_before_the_training(tmp_path, refused):
    both = write_cache(tmp_path / "both", plant(range(15)), branch="both")
    message = refused(both, "--latents", "64", "--concept-latents", "24")
    assert "5 labels need 24 latents each, but there are 64 latents. Choose more --latents or fewer" in message
