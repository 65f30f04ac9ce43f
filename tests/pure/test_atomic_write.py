"""Writing a file: the whole new one or the old one, whatever happens."""

import errno
import os
import shutil
import stat
from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sae_eraser.sae_ops.atomic_write import DiskFull, remove_parts, write_atomically


def write_and_be_killed(path):
    def kill(part):
        part.with_name(".tmp4Zq9").write_text("half of the ne")
        os.kill(os.getpid(), 9)

    write_atomically(path, kill)


def test_the_folder_is_made(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "file", lambda part: part.write_text("new"))
    assert (tmp_path / "a" / "b" / "file").read_text() == "new"


def test_two_can_write_one_file_at_once(tmp_path):
    """As do two computers that share a folder, whose processes may have the same number."""

    def write_slowly(part):
        part.write_text("half of the ne")
        write_atomically(tmp_path / "file", lambda other: other.write_text("another's"))
        part.write_text("new")

    write_atomically(tmp_path / "file", write_slowly)
    assert (tmp_path / "file").read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(part):
        part.write_text("half of the ne")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_what_the_writer_itself_leaves_goes_too(tmp_path):
    """safetensors writes under another name first."""

    def fail(part):
        part.with_name(".tmp4Zq9").write_text("half of the ne")
        raise OSError("disk full")

    with pytest.raises(OSError):
        write_atomically(tmp_path / "file", fail)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["mkdir", "chmod", "fsync", "replace", "unlink", "close", "rmdir"])
def test_ctrl_c_within_any_call_of_the_system_leaves_nothing_half_done(tmp_path, monkeypatch, call):
    """Also where the folder of the part is made or removed."""
    path, made = tmp_path / "file", getattr(os, call)
    path.write_text("old")

    def interrupted(*arguments, **named):
        made(*arguments, **named)
        monkeypatch.setattr(os, call, made)
        raise KeyboardInterrupt

    def write(part):
        part.write_text("new")
        part.with_name("left").write_text("by the writer")
        if call != "mkdir":
            monkeypatch.setattr(os, call, interrupted)

    if call == "mkdir":
        monkeypatch.setattr(os, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, write)
    assert getattr(os, call) is made
    assert path.read_text() in ("old", "new")
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_the_system_does_not_close_is_no_ctrl_c(tmp_path, monkeypatch):
    """rmtree does not ignore that, whatever it is told, before Python 3.13."""
    close = os.close

    def refused(descriptor):
        monkeypatch.setattr(os, "close", close)
        close(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def write(part):
        part.write_text("new")
        monkeypatch.setattr(os, "close", refused)

    write_atomically(tmp_path / "file", write)
    assert (tmp_path / "file").read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="Windows kills in another way")
def test_what_a_killed_process_has_left_is_removed_when_asked(tmp_path):
    child = os.fork()
    if not child:
        write_and_be_killed(tmp_path / "a[1]")
    os.waitpid(child, 0)
    (tmp_path / "a[1]").write_text("old")
    (tmp_path / "a1.safetensors.4711.part").mkdir()
    assert len(os.listdir(tmp_path)) == 3
    others = tmp_path / "a[1].safetensors.4711.part"  # of a file whose name goes on
    others.mkdir()
    remove_parts(tmp_path, {"a[1]"})
    assert sorted(os.listdir(tmp_path)) == ["a1.safetensors.4711.part", "a[1]", others.name]


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_of_the_file_is_what_the_umask_allows(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", lambda part: (part.write_text("new"), part.chmod(0o600)))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


@pytest.mark.skipif(os.name != "posix", reason="asks the system how the file was opened")
def test_what_is_flushed_was_opened_for_writing(tmp_path, monkeypatch):
    """Windows refuses to flush anything else."""
    import fcntl

    modes, flush = [], os.fsync

    def seen(descriptor):
        modes.append(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    write_atomically(tmp_path / "file", lambda part: part.write_text("new"))
    assert modes == [os.O_RDWR]


@pytest.mark.parametrize("refusals, written", [(5, True), (1000, False)])
def test_on_windows_a_file_that_is_open_for_a_moment_is_waited_for(tmp_path, monkeypatch, refusals, written):
    """A virus scanner opens what is new. This stands for Windows."""
    path, tries, waited, replace = tmp_path / "file", [], [], os.replace
    path.write_text("old")

    def busy(part, path):
        tries.append(part)
        if len(tries) <= refusals:
            raise PermissionError(13, "Access is denied", str(part), 5, str(path))
        replace(part, path)

    windows = mock.Mock(wraps=os, replace=busy)
    windows.name = "nt"
    monkeypatch.setattr("sae_eraser.sae_ops.atomic_write.os", windows)
    monkeypatch.setattr("sae_eraser.sae_ops.atomic_write.time.sleep", waited.append)
    with nullcontext() if written else pytest.raises(PermissionError):
        write_atomically(path, lambda part: part.write_text("new"))
    assert path.read_text() == ("new" if written else "old")
    assert sum(waited) == pytest.approx(0.5 if written else 2.0)


def test_elsewhere_what_may_not_be_replaced_is_said_at_once(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(os, "replace", mock.Mock(side_effect=PermissionError(1, "Operation not permitted")))
    monkeypatch.setattr("sae_eraser.sae_ops.atomic_write.time.sleep", waited.append)
    with pytest.raises(PermissionError):
        write_atomically(tmp_path / "file", lambda part: part.write_text("new"))
    assert not waited


def test_what_the_system_has_no_text_for_is_no_full_disk(tmp_path, monkeypatch):
    """Windows has none for a quota."""
    monkeypatch.setattr(os, "strerror", lambda number: "No space left" if number == errno.ENOSPC else "Unknown error")
    for said, raised in (("Unknown error", RuntimeError), ("No space left on device", DiskFull)):
        with pytest.raises(raised):
            write_atomically(tmp_path / "file", mock.Mock(side_effect=RuntimeError(said)))


@pytest.mark.parametrize(
    "error, raised, message",
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), DiskFull, "disk of .*file is full. Free some space"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), PermissionError, "Permission denied"),
    ],
)
def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch, error, raised, message):
    """A disk can have room for bytes and none for names."""
    monkeypatch.setattr(os, "mkdir", mock.Mock(side_effect=error))
    with pytest.raises(raised, match=message):
        write_atomically(tmp_path / "new" / "file", lambda part: part.write_text("new"))


def test_a_full_disk_is_named_whatever_the_writer_says(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=0))

    def fail(part):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 3136 vs 3030")

    with pytest.raises(DiskFull, match=f"disk of {tmp_path / 'file'} is full. Free some space"):
        write_atomically(tmp_path / "file", fail)


@pytest.mark.skipif(os.name != "posix", reason="asks the system to refuse")
@pytest.mark.parametrize("kind", ["text", "picture", "safetensors", "torch"])
@pytest.mark.parametrize("share", [0.01, 0.9])
def test_what_the_system_refuses_to_write_is_named_whatever_the_writer_says(tmp_path, kind, share):
    """As of a file larger than the disk can hold; the libraries' own errors name none, and commands would not know
    them."""
    import resource

    tensors = {"a": torch.zeros(5000), "b": torch.ones(5000)}
    write = {
        "text": lambda part: part.write_text("new " * 10_000),
        "picture": lambda part: Image.effect_noise((200, 200), 50).save(part, "PNG"),
        "safetensors": lambda part: save_file(tensors, part),
        "torch": lambda part: torch.save(tensors, part),
    }[kind]
    path = tmp_path / "file"
    write_atomically(path, write)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * len(before)), limits[1]))
    try:
        with pytest.raises(OSError, match=f"{path} cannot be written .*Check its disk.*run the same again") as raised:
            write_atomically(path, write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not isinstance(raised.value, DiskFull)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["file"]
