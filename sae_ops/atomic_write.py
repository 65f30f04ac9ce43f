"""Writing files so that a stop at any moment leaves either the whole new file or the old one."""

import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from .reasons import reason_of

ENOUGH_BYTES = 1 << 16
"""A disk with less is full: what was written last may have needed more than was left."""
BUSY_SECONDS, POLL_SECONDS = 2.0, 0.1
"""How long a file on Windows may be open elsewhere, and how often it is tried."""
REFUSED = ("I/O error", "IoError", "inline_container", "iostream error")
"""What safetensors and torch say where the system refuses to write, as of a file larger than the disk can hold."""
PART = r"\.\w+\.part"
"""What the name of a part's folder has after the file's, as a regular expression."""


class DiskFull(OSError):
    """There is no room for the file; the message names it."""


def check_writable(path: Path) -> None:
    """Raises OSError if write_atomically could not begin to write there, as when the name is too long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _part_folder(path):
        pass


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls write(part) with a name near `path` and then puts that file in its place, durably.

    Raises DiskFull, or another OSError that names the file, if the system refuses to write. The part has a folder of
    its own, whoever else writes this file, which goes with all that the writer leaves in it, as safetensors does if it
    fails.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _part_folder(path) as folder:
            part = folder / "part"
            part.touch()
            mode = part.stat().st_mode
            write(part)
            part.chmod(mode)  # safetensors writes files that only their owner can read
            with open(part, "rb+") as file:  # Windows flushes only what may be written
                os.fsync(file.fileno())
            _replace(part, path)
    except Exception as error:  # torch and safetensors have errors of their own for it
        if _is_full(path.parent, error):
            raise DiskFull(f"The disk of {path} is full. Free some space and run the same again ({error}).") from error
        if _is_refused(error):
            reason = reason_of(error)
            raise OSError(
                f"{path} cannot be written ({reason}). Check its disk, or choose another, and run the same again."
            ) from error
        raise


def remove_parts(folder: Path, names: Collection[str]) -> None:
    """Removes what processes have left that were killed while they wrote files of these names into the folder.

    None may be writing them now.
    """
    for part in folder.glob("*.part"):
        if re.sub(f"{PART}$", "", part.name) in names:
            shutil.rmtree(part, ignore_errors=True)


def _replace(part: Path, path: Path) -> None:
    """On Windows it waits a while for a virus scanner, or whoever else has the file open for a moment."""
    for _ in range(round(BUSY_SECONDS / POLL_SECONDS) if os.name == "nt" else 0):
        try:
            return os.replace(part, path)
        except PermissionError:
            time.sleep(POLL_SECONDS)
    os.replace(part, path)


@contextmanager
def _part_folder(path: Path) -> Iterator[Path]:
    """A new one, since another computer that shares the folder may have a process of the same number.

    Ctrl-C leaves nothing of it, even while it is made or removed, as it may where tempfile makes it.
    """
    folder = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        folder.mkdir(0o700)
        yield folder
    finally:
        try:
            shutil.rmtree(folder, ignore_errors=True)
        except (KeyboardInterrupt, OSError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            if KeyboardInterrupt in (type(error), type(error.__context__)):  # older Pythons make an OSError of it
                raise KeyboardInterrupt from error


def _is_full(folder: Path, error: Exception) -> bool:
    reasons = (errno.ENOSPC, errno.EDQUOT)
    texts = [text for text in map(os.strerror, reasons) if "Unknown" not in text]  # as of what Windows has no quota for
    said = getattr(error, "errno", None) in reasons or any(text in str(error) for text in texts)
    return said or folder.is_dir() and shutil.disk_usage(folder).free < ENOUGH_BYTES


def _is_refused(error: Exception) -> bool:
    """Whether the system has refused to write, and nothing says which file."""
    if isinstance(error, OSError):  # those of a kind of their own, as PermissionError, come with the file
        return type(error) is OSError and error.errno is not None and error.filename is None
    return any(text in str(error) for text in REFUSED)
