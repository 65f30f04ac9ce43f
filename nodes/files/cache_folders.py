"""Where caches of activations lie: output/sae_cache."""

from pathlib import Path

import folder_paths

from ...training.cache.manifest import MANIFEST
from .other_computers import refuse_other_computers
from .output_paths import output_path

FOLDER = "sae_cache"


def new_cache_path(name: str) -> Path:
    """output/sae_cache/NAME. Raises ValueError if the name would lead out of it."""
    return output_path(FOLDER, name, "a cache")


def cache_path(cache: str) -> Path:
    """The folder of this name in output/sae_cache, or of this whole path, whether it is there or not.

    Raises ValueError as refuse_other_computers does.
    """
    return _root() / refuse_other_computers(cache)


def find_cache(cache: str) -> Path:
    """The folder of the cache of this name or path. Raises ValueError, which lists those in output/sae_cache."""
    folder = cache_path(cache)
    if cache.strip() and (folder / MANIFEST).is_file():
        return folder
    found = sorted(path.parent.name for path in _root().glob(f"*/{MANIFEST}"))
    there = f"It holds: {', '.join(found)}." if found else "It holds none."
    raise ValueError(
        f"There is no cache '{cache.strip()}' in {_root()}. {there} Make one with Collect Activations, and connect its "
        "output here."
    )


def _root() -> Path:
    return Path(folder_paths.get_output_directory(), FOLDER)
