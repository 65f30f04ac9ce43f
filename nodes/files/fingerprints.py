"""What nodes that write files tell ComfyUI, which runs a node again only if an input or its fingerprint changes."""

from collections.abc import Iterable
from pathlib import Path

_written: set[Path] = set()


def never_the_same() -> float:
    """The fingerprint of a node whose files are gone: ComfyUI still has its results, by that from before it ran.

    A NaN, which differs from every other one; but in ComfyUI's keys one and the same object is equal to itself.
    """
    return float("nan")


def note_written(path: Path) -> None:
    """Notes that a node has written this file or folder."""
    _written.add(path)


def was_written(path: Path) -> bool:
    """Whether ComfyUI may still have the results of a node that wrote it."""
    return path in _written


def is_gone(path: Path) -> bool:
    """Whether a node wrote it and it is not there any more."""
    return was_written(path) and not path.exists()


def stamps(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Path, time and size of each of these paths that exists."""
    return [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in paths if path.exists()]
