"""What lies in a folder, for tests that compare it with what lay there before or lies in another one."""

from pathlib import Path


def contents(folder: Path) -> dict[str, bytes]:
    """The files in the folder and in those below, by their paths within it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
