"""Checkpoints, and trainings that are killed and go on from them to the same bytes."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pure.planted import plant, write_cache
from pure.training_runs import FINISHING, SUPERVISING, train, train_and_kill, train_elsewhere
from sae_eraser.sae_ops.sae_file import save_sae
from sae_eraser.training import build
from sae_eraser.training import checkpoint as checkpoint_module
from sae_eraser.training.checkpoint import Checkpoints
from sae_eraser.training.finish import finish

STEPS = ("--unsupervised-steps", "30", "--supervised-steps", "30", "--vectors", "256")
OPTIONS = ("--latents", "32", "--k", "2", *STEPS)
OFTEN = ("--checkpoint-minutes", "0")
EAGER = (*OPTIONS, *OFTEN)
SETTINGS = {"seed": 0, "latents": 32}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return write_cache(tmp_path_factory.mktemp("planted") / "cache", plant(range(15)))


@pytest.fixture(scope="module")
def expected(cache) -> bytes:
    """The SAE file of a training that nothing interrupts."""
    train_elsewhere(cache, cache.parent / "expected.safetensors", *OPTIONS)
    return (cache.parent / "expected.safetensors").read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def numbers(out: Path) -> list[int]:
    """Of the checkpoints beside an SAE file."""
    return [int(path.stem) for path in sorted(out.with_name("sae.training").glob("*.pt"))]


def test_the_last_two_are_kept_and_the_last_is_read(tmp_path):
    checkpoints = Checkpoints(tmp_path / "x.training", SETTINGS)
    assert checkpoints.load() is None
    for number in (9, 10, 300, 10**8):
        checkpoints.save(number, {"step": number, "weights": torch.ones(3)})
        assert len(list((tmp_path / "x.training").glob("*.pt"))) <= 2
    assert names(tmp_path / "x.training") == ["000000300.pt", "100000000.pt", "settings.sha256"]
    assert Checkpoints(tmp_path / "x.training", SETTINGS).load()["step"] == 10**8
    checkpoints.remove()
    assert names(tmp_path) == []


def test_a_stop_while_one_is_written_leaves_those_before(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "x.training", SETTINGS)
    checkpoints.save(1, {"step": 1})
    checkpoints.save(2, {"step": 2})

    def half(state, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint_module.torch, "save", half)
        checkpoints.save(3, {"step": 3})
    assert names(tmp_path / "x.training") == ["000000001.pt", "000000002.pt", "settings.sha256"]
    assert checkpoints.load() == {"step": 2}


def test_a_damaged_one_is_named_and_the_one_before_is_read(tmp_path):
    checkpoints = Checkpoints(tmp_path / "x.training", SETTINGS)
    checkpoints.save(1, {"step": 1})
    checkpoints.save(2, {"step": 2})
    (tmp_path / "x.training" / "000000002.pt").write_bytes(b"garbage")
    with pytest.warns(UserWarning, match="000000002.pt cannot be read.*the checkpoint before"):
        assert checkpoints.load() == {"step": 1}


def test_those_that_cannot_be_read_do_not_outlast_the_ones_that_follow(tmp_path, recwarn):
    for number in (10, 20):
        Checkpoints(tmp_path, SETTINGS).save(SUPERVISING + number, {"step": number})
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"damaged")
    anew = Checkpoints(tmp_path, SETTINGS)
    assert anew.load() is None
    for number in (50, 100):
        anew.save(number, {"step": number})
    assert Checkpoints(tmp_path, SETTINGS).load() == {"step": 100}
    assert len(list(tmp_path.glob("*.pt"))) == 2


def test_those_of_other_settings_are_refused_until_they_are_forgotten(tmp_path):
    Checkpoints(tmp_path / "x.training", SETTINGS).save(1, {"step": 1})
    with pytest.raises(ValueError, match="other settings or another cache.*--restart.*another --out"):
        Checkpoints(tmp_path / "x.training", SETTINGS | {"seed": 1})
    fresh = Checkpoints(tmp_path / "x.training", SETTINGS | {"seed": 1}, restart=True)
    assert fresh.load() is None


def test_of_two_trainings_that_begin_in_one_folder_only_the_first_to_save_goes_on(tmp_path):
    first, second = (Checkpoints(tmp_path / "x.training", SETTINGS | {"seed": seed}) for seed in (1, 2))
    first.save(1, {"of": "first"})
    with pytest.raises(ValueError, match="other settings or another cache.*another --out"):
        second.save(2, {"of": "second"})
    first.save(3, {"of": "first"})
    assert first.load() == {"of": "first"}
    assert names(tmp_path / "x.training") == ["000000001.pt", "000000003.pt", "settings.sha256"]


@pytest.mark.parametrize("deleted", [1, 2])
def test_what_a_stop_while_they_are_removed_leaves_is_not_read_by_another_training(tmp_path, monkeypatch, deleted):
    folder, listed, unlink, calls = tmp_path / "x.training", Path.iterdir, Path.unlink, []
    checkpoints = Checkpoints(folder, SETTINGS)
    checkpoints.save(1, {"step": 1})
    checkpoints.save(2, {"step": 2})

    def stop(path, missing_ok=False):
        if len(calls) == deleted:
            raise KeyboardInterrupt
        calls.append(path)
        unlink(path, missing_ok)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "iterdir", lambda path: iter(sorted(listed(path), reverse=True)))  # the fingerprint first
        patch.setattr(Path, "unlink", stop)
        checkpoints.remove()
    assert "settings.sha256" in names(folder)
    if deleted == 1:
        with pytest.raises(ValueError, match="other settings or another cache"):
            Checkpoints(folder, SETTINGS | {"seed": 1})
        assert checkpoints.load()["step"] in (1, 2)
    else:
        assert Checkpoints(folder, SETTINGS | {"seed": 1}).load() is None


def test_those_without_a_fingerprint_are_refused_until_they_are_forgotten(tmp_path):
    folder = tmp_path / "x.training"
    Checkpoints(folder, SETTINGS).save(1, {"step": 1})
    (folder / "settings.sha256").unlink()
    with pytest.raises(ValueError, match="other settings or another cache.*--restart.*another --out"):
        Checkpoints(folder, SETTINGS)
    assert Checkpoints(folder, SETTINGS, restart=True).load() is None


FOREIGN = ("notes.txt", "5.pt", "model.pt", "000000001.pt.bak", "settings.sha256.old", "1000000000.pt")


def test_files_of_others_are_neither_read_nor_deleted(tmp_path):
    folder = tmp_path / "x.training"
    folder.mkdir()
    for name in FOREIGN:
        (folder / name).write_text("mine")
    checkpoints = Checkpoints(folder, SETTINGS)
    assert checkpoints.load() is None
    for number in range(4):
        checkpoints.save(number, {"step": number})
    (folder / "000000004.pt.4711.part").mkdir()
    (folder / "000000004.pt.4711.part" / "part").write_bytes(b"what a killed process has left")
    assert checkpoints.load() == {"step": 3}
    assert Checkpoints(folder, SETTINGS | {"seed": 1}, restart=True).load() is None
    assert names(folder) == sorted(FOREIGN)
    assert all((folder / name).read_text() == "mine" for name in FOREIGN)


def test_a_training_killed_in_every_phase_goes_on_to_the_same_bytes(cache, expected, tmp_path):
    out = tmp_path / "sae.safetensors"
    for phase, at in ((0, 10), (SUPERVISING, SUPERVISING + 10), (FINISHING, FINISHING)):
        train_and_kill(cache, out, *EAGER, at=at)
        assert not out.exists()
        assert len(numbers(out)) == 2
        assert at <= numbers(out)[-1] <= phase + 30
    train_elsewhere(cache, out, *EAGER)
    assert out.read_bytes() == expected
    assert names(tmp_path) == ["sae.safetensors"]


def test_a_training_that_was_all_but_finished_makes_no_step_again(cache, tmp_path, capsys):
    train_and_kill(cache, tmp_path / "sae.safetensors", *EAGER, at=FINISHING)
    assert train(cache, tmp_path / "sae.safetensors", *EAGER) == 0
    assert "step" not in capsys.readouterr().err


@pytest.mark.parametrize("kept_bytes", [0, 0.9])
def test_a_training_goes_back_behind_a_damaged_checkpoint(cache, expected, tmp_path, kept_bytes):
    out = tmp_path / "sae.safetensors"
    train_and_kill(cache, out, *EAGER, at=10)
    newest = out.with_name("sae.training") / f"{numbers(out)[-1]:09d}.pt"
    content = newest.read_bytes()
    newest.write_bytes(content[: int(kept_bytes * len(content))])
    train_elsewhere(cache, out, *OPTIONS)
    assert out.read_bytes() == expected
    assert names(tmp_path) == ["sae.safetensors"]


def test_a_training_goes_on_from_another_working_folder(cache, expected, tmp_path, monkeypatch):
    train_and_kill(cache, tmp_path / "sae.safetensors", *EAGER, at=SUPERVISING + 10)
    monkeypatch.chdir(tmp_path)
    train_elsewhere(cache, Path("sae.safetensors"), *EAGER)
    assert (tmp_path / "sae.safetensors").read_bytes() == expected


def test_an_unfinished_training_with_other_settings_is_left_alone_or_forgotten(cache, expected, tmp_path, capsys):
    out = tmp_path / "sae.safetensors"
    train_and_kill(cache, out, *EAGER, "--seed", "1", at=10)
    found = numbers(out)
    assert train(cache, out, *OPTIONS) == 1
    assert "unfinished training with other settings" in capsys.readouterr().err
    assert numbers(out) == found
    (out.with_name("sae.training") / "notes.txt").write_text("mine")
    train_elsewhere(cache, out, *OPTIONS, "--restart")
    assert out.read_bytes() == expected
    assert names(out.with_name("sae.training")) == ["notes.txt"]


def test_an_extension_goes_on_to_the_same_bytes(cache, tmp_path):
    train_elsewhere(cache, tmp_path / "base.safetensors", *OPTIONS, "--groups", "object")
    extend = (*STEPS, *OFTEN, "--extend", tmp_path / "base.safetensors")
    train_elsewhere(cache, tmp_path / "straight.safetensors", *extend)
    for at in (SUPERVISING + 10, FINISHING):
        train_and_kill(cache, tmp_path / "killed.safetensors", *extend, at=at)
    train_elsewhere(cache, tmp_path / "killed.safetensors", *extend)
    assert (tmp_path / "killed.safetensors").read_bytes() == (tmp_path / "straight.safetensors").read_bytes()


def test_an_extension_does_not_go_on_with_another_sae_under_the_same_name(cache, tmp_path, capsys):
    base, out = tmp_path / "base.safetensors", tmp_path / "sae.safetensors"
    objects = (*OPTIONS, "--groups", "object", "--overwrite")
    train_elsewhere(cache, base, *objects)
    train_and_kill(cache, out, *STEPS, *OFTEN, "--extend", base, at=SUPERVISING + 10)
    train_elsewhere(cache, base, *objects, "--seed", "1")
    assert train(cache, out, *STEPS, *OFTEN, "--extend", base) == 1
    assert "unfinished training with other settings" in capsys.readouterr().err


def test_several_saes_in_one_pass_go_on_to_the_same_bytes(cache, tmp_path):
    several = (*EAGER, "--k", "1", "2")
    train_elsewhere(cache, tmp_path / "straight", *several)
    for at in (10, SUPERVISING + 10):
        train_and_kill(cache, tmp_path / "killed", *several, at=at)
    train_elsewhere(cache, tmp_path / "killed", *several)
    assert len(names(tmp_path / "straight")) == 2
    for path in (tmp_path / "straight").iterdir():
        assert (tmp_path / "killed" / path.name).read_bytes() == path.read_bytes()


def test_several_saes_that_are_stopped_while_they_are_finished_go_on(cache, tmp_path, monkeypatch):
    several, finished = (*EAGER, "--k", "1", "2"), []

    def stop_at_the_second(plan, order, *others):
        if finished:
            raise KeyboardInterrupt
        finished.append(order)
        return finish(plan, order, *others)

    monkeypatch.setattr(build, "finish", stop_at_the_second)
    assert train(cache, tmp_path / "saes", *several) == 1
    assert len(finished) == 1
    monkeypatch.undo()
    assert train(cache, tmp_path / "saes", *several) == 0
    assert len(list((tmp_path / "saes").glob("*.safetensors"))) == 2


def test_several_saes_of_which_only_some_could_be_written_go_on(cache, tmp_path, monkeypatch, capsys):
    several, written = (*OPTIONS, "--k", "1", "2"), []

    def full_at_the_second(out, *others):
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(out)
        save_sae(out, *others)

    monkeypatch.setattr(build, "save_sae", full_at_the_second)
    assert train(cache, tmp_path / "saes", *several) == 1
    monkeypatch.undo()
    (content,) = [out.read_bytes() for out in written]
    assert train(cache, tmp_path / "saes", *several, "--seed", "1") == 1
    assert "exists" in capsys.readouterr().err, "of another training"
    assert train(cache, tmp_path / "saes", *several) == 0
    assert len(list((tmp_path / "saes").glob("*.safetensors"))) == 2
    assert written[0].read_bytes() == content
    assert not (tmp_path / "saes.training").exists()
    assert train(cache, tmp_path / "saes", *several) == 1
    assert "exists" in capsys.readouterr().err


def test_a_training_does_not_go_on_with_other_activations_of_equal_settings(tmp_path, capsys):
    planted, out = plant(range(15)), tmp_path / "sae.safetensors"
    train_and_kill(write_cache(tmp_path / "cache", planted), out, *EAGER, at=10)
    shutil.rmtree(tmp_path / "cache")
    write_cache(tmp_path / "cache", replace(planted, maps=2 * planted.maps))
    assert train(tmp_path / "cache", out, *EAGER) == 1
    assert "another cache" in capsys.readouterr().err
