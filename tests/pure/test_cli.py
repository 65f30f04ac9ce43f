"""The command sae-eraser: what `info` prints, how it fails, and that it runs without being installed."""

import argparse
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkout import ROOT
from pure.planted import plant, write_cache
from pure.sae_files import rewrite, write_good_file
from pure.training_runs import train
from sae_eraser.sae_ops.sae_file import load_sae, set_training_fact
from sae_eraser.training.cli import COMMANDS, command_line, main
from sae_eraser.training.commands import info_command


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_explains_it_and_all_that_it_takes(name):
    (subparsers,) = (a for a in command_line(name)._actions if isinstance(a, argparse._SubParsersAction))
    command = subparsers.choices[name]
    assert command.description and command.description.endswith(".")
    for action in command._actions:
        where = " ".join(action.option_strings) or action.dest
        assert action.help and len(action.help.split()) > 2 and not action.help.endswith("."), where
        assert not re.match(r"(of|for|default:) ", action.help), f"{where} needs its name to be understood"
        if action.default not in (None, False, [], argparse.SUPPRESS):
            assert "(default: " in action.help, where
    assert command.format_help()


def test_the_version_is_that_of_the_checkout(capsys):
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"sae-eraser {version}\n"


@pytest.mark.parametrize("when", ["add_arguments", "run"])
def test_ctrl_c_is_answered_in_a_line(tmp_path, capsys, monkeypatch, when):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(info_command, when, stopped)
    assert main(["info", str(tmp_path / "sae.safetensors")]) == 1
    assert capsys.readouterr() == ("", "sae-eraser: Stopped. Run the same command again.\n")


def test_info_lists_the_concepts(tmp_path, capsys):
    assert main(["info", str(write_good_file(tmp_path / "sae.safetensors"))]) == 0
    text = capsys.readouterr().out
    assert "SD15, mid_block.attentions.0 (residual)" in text
    assert all(f": {name} " in text for name in ("disc", "box", "wavy", "grainy"))


def test_info_shows_what_training_has_shown(tmp_path, capsys):
    steps = ("--latents", "16", "--k", "2", "--unsupervised-steps", "2", "--supervised-steps", "2")
    assert train(write_cache(tmp_path / "cache", plant(range(15))), tmp_path / "sae.safetensors", *steps) == 0
    shown = capsys.readouterr().out
    assert main(["info", str(tmp_path / "sae.safetensors")]) == 0
    text = capsys.readouterr().out
    assert shown.startswith(text)
    assert "(FVU): 0." in text and "object: disc" in text and " accuracy " in text


@pytest.mark.parametrize(
    "fields",
    [
        {"training": {"validation": [1]}},
        {"training": {"images": 3, "sampling": 5}},
        {"concepts": [{"name": "disc", "group": "object", "latents": [0], "facts": {"explained": None}}]},
    ],
    ids=str,
)
def test_info_of_facts_that_are_none_is_a_line(tmp_path, capsys, fields):
    path = write_good_file(tmp_path / "sae.safetensors")
    rewrite(path, **fields)
    assert main(["info", str(path)]) == 1
    message = capsys.readouterr().err
    assert f"sae-eraser: {path}: what it says of its training cannot be understood" in message
    assert message.count("\n") == 1


def test_info_writes_where_the_file_can_be_downloaded(tmp_path, capsys):
    path = write_good_file(tmp_path / "sae.safetensors")
    before, (_, header, _) = load_file(path), load_sae(path)
    url = "https://huggingface.co/someone/saes/resolve/main/sae.safetensors"
    assert main(["info", str(path), "--set-url", url]) == 0
    assert f"url: {url}" in capsys.readouterr().out
    after, (_, changed, _) = load_file(path), load_sae(path)
    assert changed == replace(header, training={**header.training, "url": url})
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells")
def test_the_file_is_not_mapped_while_it_is_replaced(tmp_path, monkeypatch):
    """Windows would refuse to replace it."""
    path = write_good_file(tmp_path / "sae.safetensors")
    mapped, replace_file = [], os.replace

    def replace_and_look(part, whole):
        mapped.append(str(path) in Path("/proc/self/maps").read_text())
        replace_file(part, whole)

    monkeypatch.setattr(os, "replace", replace_and_look)
    set_training_fact(path, "url", "https://example.org/sae.safetensors")
    assert mapped == [False]


def test_info_refuses_what_is_no_address_of_a_file(tmp_path, capsys):
    path = write_good_file(tmp_path / "sae.safetensors")
    before = path.read_bytes()
    for url in ("sae.safetensors", "https://huggingface.co/someone/saes", "file:///tmp/sae.safetensors"):
        assert main(["info", str(path), "--set-url", url]) == 1
        assert "resolve/main/mine.safetensors" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_info_writes_no_address_into_a_file_that_is_none_of_ours(tmp_path, capsys):
    path = tmp_path / "lora.safetensors"
    save_file({"up": torch.ones(2)}, path, metadata={"format": "pt"})
    before = path.read_bytes()
    assert main(["info", str(path), "--set-url", "https://example.org/lora.safetensors"]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"sae-eraser: {path}") and message.count("\n") == 1
    assert path.read_bytes() == before


def test_a_file_that_is_no_sae(tmp_path, capsys):
    (tmp_path / "x.safetensors").write_text("hello")
    assert main(["info", str(tmp_path / "x.safetensors")]) == 1
    message = capsys.readouterr().err
    assert message.startswith("sae-eraser: ") and message.count("\n") == 1
    assert "x.safetensors cannot be read" in message


def test_it_runs_from_inside_custom_nodes_without_being_installed(tmp_path):
    """With ComfyUI's own Python; the folder's name need not be a Python name."""
    copy = tmp_path / "custom nodes" / "sae-eraser"
    for folder in ("sae_ops", "training"):
        shutil.copytree(ROOT / folder, copy / folder)
    for file in ("__init__.py", "pyproject.toml"):
        shutil.copy(ROOT / file, copy)
    with (copy / "training" / "cli.py").open("a") as file:
        file.write("\nprint(__file__)\n")
        file.write("import importlib.util\nprint('config:', importlib.util.find_spec('config'))\n")
    command = [sys.executable, copy / "training", "train", "--help"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert str(copy) in run.stdout
    assert "config: None" in run.stdout, "other packages and a user's modules find their own"
    assert "--supervised-steps" in run.stdout
    project = copy / "pyproject.toml"
    project.write_text(re.sub(r'^version = ".+"$', 'version = "12.3.4"', project.read_text(), flags=re.MULTILINE))
    run = subprocess.run([*command[:2], "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "sae-eraser 12.3.4"
