"""Prompts that are written into a node, or lie in a file."""

import os
from pathlib import Path

import folder_paths

from ...training.prompts import read_text


def prompt_text(prompts: str) -> str:
    """The text itself, or the content of the file in the input folder that it names. Raises ValueError without it."""
    name = prompts.strip()
    if name.lower().endswith((".jsonl", ".csv")) and "\n" not in name:
        folder = Path(folder_paths.get_input_directory()).resolve()
        path = Path(os.path.normpath(folder / name))  # links within it may lead elsewhere
        if not path.is_relative_to(folder) or not path.is_file():
            raise ValueError(f"{name} is not in ComfyUI's input folder. Put the file there.")
        return read_text(path)
    return prompts
