"""Where nodes write new SAE files, and how they hand them on."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from ...sae_ops.sae_file import read_header
from .fingerprints import note_left
from .output_paths import USABLE, is_usable_name
from .sae_files import FOLDER, open_sae, why_not_opened


def new_sae_path(name: str) -> Path:
    """models/sae/NAME.safetensors. Raises ValueError if the name would lead out of models/sae."""
    root = _root()
    bare = name.strip().removesuffix(".safetensors")
    path = Path(os.path.normpath(root / f"{bare}.safetensors"))  # links within it may lead to another disk
    usable = path.is_relative_to(root) and path.stem == Path(bare).name
    if not usable or not all(map(is_usable_name, (str(path.relative_to(root)), path.stem))):
        raise ValueError(f"'{name}' is no usable name for an SAE file. {USABLE}")
    return path


def refuse_to_replace(path: Path) -> None:
    """Raises ValueError if there is a file."""
    if path.exists():
        raise ValueError(f"{path} exists. Choose another name, or set overwrite to replace it.")


def name_in_lists(path: Path) -> str:
    """The name under which the dropdowns have a file of models/sae."""
    return str(path.relative_to(_root()))


def finished_sae(path: Path, inputs: Mapping[str, Any], shown: ui.PreviewText | dict) -> io.NodeOutput:
    """What a node gives that has written this SAE file: its name in the lists and the SAE, and what the node shows.

    If nothing can be done with the SAE, what it is connected to says so in its place. inputs: all of the node's.
    Raises SAEFileError.
    """
    name = name_in_lists(path)
    refusal = why_not_opened(name, read_header(path))
    sae = ExecutionBlocker(refusal) if refusal else open_sae(name)
    note_left(path, inputs)
    return io.NodeOutput(name, sae, ui=shown)


def _root() -> Path:
    return Path(folder_paths.get_folder_paths(FOLDER)[0]).resolve()
