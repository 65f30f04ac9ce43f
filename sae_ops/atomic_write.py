"""Writing files so that a stop at any moment leaves either the whole new file or the old one."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

ENOUGH_BYTES = 1 << 16
"""A disk with less is full: what was written last may have needed more than was left."""


class DiskFull(OSError):
    """There is no room for the file; the message names it."""


def check_writable(path: Path) -> None:
    """Raises OSError if write_atomically could not begin to write there, as when the name is too long."""
    part = _part_of(path)
    part.touch()
    part.unlink()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls write(part) with a name beside `path` and then puts that file in its place, durably. Raises DiskFull."""
    part = _part_of(path)
    try:
        part.touch()
        mode = part.stat().st_mode
        write(part)
        part.chmod(mode)  # safetensors writes files that only their owner can read
        with open(part, "rb+") as file:  # Windows flushes only what may be written
            os.fsync(file.fileno())
        os.replace(part, path)
    except Exception as error:  # torch and safetensors have errors of their own for it
        if _is_full(part.parent, error):
            raise DiskFull(f"The disk of {path} is full. Free some space and run the same again ({error}).") from error
        raise
    finally:
        part.unlink(missing_ok=True)


def _part_of(path: Path) -> Path:
    """The name to write under at first, in a folder that there is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.name}.{os.getpid()}.part")


def _is_full(folder: Path, error: Exception) -> bool:
    reasons = (errno.ENOSPC, errno.EDQUOT)
    said = any(getattr(error, "errno", None) == reason or os.strerror(reason) in str(error) for reason in reasons)
    return said or shutil.disk_usage(folder).free < ENOUGH_BYTES
