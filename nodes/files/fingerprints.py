"""What nodes that write files tell ComfyUI, which runs a node again only if an input or its fingerprint changes.

A stamp of what a node writes would differ after the run that wrote it, and ComfyUI would run the node once more. So it
tells how often its files were found otherwise than it had left them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Stamps = list[tuple[str, int, int]]

_left: dict[Path, tuple[dict[str, Any], Stamps]] = {}
"""By file or folder: the inputs of the node that wrote it, and its stamps then."""
_changes: Counter[Path] = Counter()


def note_left(path: Path, inputs: Mapping[str, Any]) -> None:
    """Notes that a node with these inputs has left this file or folder as it is now."""
    _left[path] = dict(inputs), _stamps_within(path)


def changes_since(path: Path, inputs: Mapping[str, Any]) -> list[int]:
    """How often this file or folder was found otherwise than it was left, if ever.

    Otherwise is gone, changed, or left with other inputs. Inputs that another node computes are None here.
    """
    if path in _left:
        known, stamped = _left[path]
        asked = {name: value for name, value in inputs.items() if value is not None}
        if stamped != _stamps_within(path) or any(known.get(name) != value for name, value in asked.items()):
            _changes[path] += 1
    return [_changes[path]] if _changes[path] else []


def stamps(paths: Iterable[Path]) -> Stamps:
    """Path, time and size of each of these paths that exists."""
    return [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in paths if path.exists()]


def _stamps_within(path: Path) -> Stamps:
    """That of a file, or those of the files in a folder."""
    return stamps(sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path])
