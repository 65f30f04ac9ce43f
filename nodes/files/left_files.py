"""Whether a file is still as a node has left it, told in a way that the run which wrote it does not change.

A stamp of the file itself would differ after the run that wrote it, and ComfyUI would run the node again.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .fingerprints import stamps

_left: dict[Path, tuple[dict[str, Any], list]] = {}
"""By file: the inputs of the node that wrote it, and its stamp then."""
_changes: Counter[Path] = Counter()


def note_left(path: Path, inputs: Mapping[str, Any]) -> None:
    """Notes that a node with these inputs has left this file as it is now."""
    _left[path] = dict(inputs), stamps([path])


def changes_since(path: Path, inputs: Mapping[str, Any]) -> list[int]:
    """For the fingerprint of a node that writes this file: how often it was found otherwise than it was left, if ever.

    Otherwise is gone, changed, or left with other inputs. Inputs that another node computes are None here.
    """
    if path in _left:
        known, stamp = _left[path]
        asked = {name: value for name, value in inputs.items() if value is not None}
        if stamp != stamps([path]) or any(known.get(name) != value for name, value in asked.items()):
            _changes[path] += 1
    return [_changes[path]] if _changes[path] else []
