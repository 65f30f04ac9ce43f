"""Where nodes write what is no SAE file."""

import os
from pathlib import Path

import folder_paths


def output_path(folder: str, name: str, what: str) -> Path:
    """output/FOLDER/NAME, for a user to name. Raises ValueError if the name would lead out of it.

    what: for the message, such as "a cache".
    """
    root = Path(folder_paths.get_output_directory(), folder).resolve()
    path = Path(os.path.normpath(root / name.strip()))  # it may be a link to another disk
    if path.parent != root or not name.strip():
        raise ValueError(f"'{name}' is no usable name for {what}. Use letters, digits, '-' and '_'.")
    return path
