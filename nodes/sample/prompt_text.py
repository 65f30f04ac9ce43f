"""Prompts that are written into a node, or lie in a file."""

from pathlib import Path

import folder_paths

from ...training.prompts import read_text


def prompt_text(prompts: str) -> str:
    """The text itself, or the content of the file in the input folder that it names. Raises ValueError without it."""
    if prompts.strip().endswith((".jsonl", ".csv")) and "\n" not in prompts.strip():
        path = Path(folder_paths.get_input_directory(), prompts.strip()).resolve()
        if not path.is_relative_to(Path(folder_paths.get_input_directory()).resolve()) or not path.is_file():
            raise ValueError(f"{prompts.strip()} is not in ComfyUI's input folder. Put the file there.")
        return read_text(path)
    return prompts
