"""Where nodes write what is no SAE file, and which names are of use for all that they write."""

import os
import re
from pathlib import Path

import folder_paths

UNUSABLE = re.compile(r'[<>:"|?*\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com[1-9]|lpt[1-9])(\.|$)', re.IGNORECASE)
"""In a name: what Windows refuses or takes for something else than a file."""
MAX_BYTES = 200
"""Of a name: systems take 255, and what is written has an ending, or a longer one while it is being written."""
USABLE = f"Use letters, digits, '-' and '_', at most {MAX_BYTES} in all."


def is_usable_name(name: str) -> bool:
    """Whether every system takes all parts of this path as names of files, so that workflows can be shared."""
    parts = re.split(r"[/\\]", name)
    return not any(UNUSABLE.search(part) or len(part.encode(errors="replace")) > MAX_BYTES for part in parts)


def output_path(folder: str, name: str, what: str) -> Path:
    """output/FOLDER/NAME, for a user to name. Raises ValueError if the name would lead out of it.

    what: for the message, such as "a cache".
    """
    root = Path(folder_paths.get_output_directory(), folder).resolve()
    path = Path(os.path.normpath(root / name.strip()))  # it may be a link to another disk
    if path.parent != root or not name.strip() or not is_usable_name(path.name):
        raise ValueError(f"'{name}' is no usable name for {what}. {USABLE}")
    return path
