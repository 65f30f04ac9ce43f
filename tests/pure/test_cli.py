"""The command sae-eraser: what it prints, how it fails, and that it runs without being installed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from checkout import ROOT
from pure.planted import HOOKPOINT, WIDTH, plant, write_cache
from pure.sae_files import write_good_file
from sae_eraser.training.cache import CacheSettings, CacheWriter
from sae_eraser.training.cli import main

QUICK = ("--latents", "16", "--k", "2", "--unsupervised-steps", "2", "--supervised-steps", "2")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return write_cache(tmp_path_factory.mktemp("planted") / "cache", plant(range(15)))


def failure(capsys, *arguments) -> str:
    """The one line that a command prints before it ends with status 1."""
    assert main([str(argument) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sae-eraser: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_training_shows_what_it_made(cache, tmp_path, capsys):
    out = tmp_path / "sae.safetensors"
    assert main(["train", str(cache), "--out", str(out), *QUICK]) == 0
    text = capsys.readouterr().out
    assert f"{out}: SD15, {HOOKPOINT}" in text
    assert "16 latents of width 16, batchtopk, k = 2" in text
    assert main(["info", str(out)]) == 0
    assert capsys.readouterr().out == text


def test_info_lists_the_concepts(tmp_path, capsys):
    assert main(["info", str(write_good_file(tmp_path / "sae.safetensors"))]) == 0
    text = capsys.readouterr().out
    assert "SD15, mid_block.attentions.0 (residual)" in text
    assert all(f": {name} " in text for name in ("disc", "box", "wavy", "grainy"))


def test_no_cache(tmp_path, capsys):
    message = failure(capsys, "train", tmp_path / "none", "--out", tmp_path / "sae.safetensors")
    assert f"{tmp_path / 'none'} is no activation cache" in message


def test_an_unknown_hookpoint(cache, tmp_path, capsys):
    message = failure(capsys, "train", cache, "--out", tmp_path / "sae.safetensors", "--hookpoint", "mid")
    assert "'mid'" in message and HOOKPOINT in message


def test_several_hookpoints_and_none_chosen(tmp_path, capsys):
    planted = plant(range(1))
    hookpoints = {HOOKPOINT: WIDTH, "up_blocks.0.attentions.1": WIDTH}
    writer = CacheWriter(tmp_path / "cache", CacheSettings("SD15", hookpoints, "output", {}, planted.images))
    writer.write_shard(dict.fromkeys(hookpoints, planted.maps), planted.sigmas)
    message = failure(capsys, "train", tmp_path / "cache", "--out", tmp_path / "sae.safetensors")
    assert f"--hookpoint: {HOOKPOINT}, up_blocks.0.attentions.1" in message


def test_pictures_without_labels(tmp_path, capsys):
    planted = plant(range(2))
    for image in planted.images:
        image.labels.clear()
    write_cache(tmp_path / "cache", planted)
    assert "no labels" in failure(capsys, "train", tmp_path / "cache", "--out", tmp_path / "sae.safetensors")


def test_too_few_pictures_to_hold_some_out(tmp_path, capsys):
    write_cache(tmp_path / "cache", plant(range(1)))
    message = failure(capsys, "train", tmp_path / "cache", "--out", tmp_path / "sae.safetensors", *QUICK)
    assert "validation" in message and "more seeds" in message


@pytest.mark.parametrize("options", [("--k", "17"), ("--k", "0"), ("--latents", "2", "--k", "1")])
def test_numbers_that_do_not_fit(cache, tmp_path, capsys, options):
    assert failure(capsys, "train", cache, "--out", tmp_path / "sae.safetensors", *QUICK, *options)


def test_a_place_that_cannot_be_written_is_found_before_training(tmp_path, cache, capsys):
    (tmp_path / "file").touch()
    message = failure(capsys, "train", cache, "--out", tmp_path / "file" / "sae.safetensors", *QUICK)
    assert str(tmp_path / "file") in message


def test_a_file_that_is_no_sae(tmp_path, capsys):
    (tmp_path / "x.safetensors").write_text("hello")
    assert "x.safetensors cannot be read" in failure(capsys, "info", tmp_path / "x.safetensors")


def test_it_runs_from_inside_custom_nodes_without_being_installed(tmp_path):
    """With ComfyUI's own Python; the folder's name need not be a Python name."""
    copy = tmp_path / "custom nodes" / "sae-eraser"
    for folder in ("sae_ops", "training"):
        shutil.copytree(ROOT / folder, copy / folder)
    shutil.copy(ROOT / "__init__.py", copy)
    with (copy / "training" / "cli.py").open("a") as file:
        file.write("\nprint(__file__)\n")
    command = [sys.executable, copy / "training", "train", "--help"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert str(copy) in run.stdout
    assert "--supervised-steps" in run.stdout
