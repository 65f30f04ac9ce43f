"""Caches of activations as Train SAE finds them, and what was trained on them."""

from pathlib import Path

import folder_paths

from ...sae_ops.autoencoder import SAEConfig
from ...sae_ops.file import SAEFileError, read_header
from ...training.cache.manifest import MANIFEST, CacheError
from ...training.cache.reader import Cache


def caches_folder() -> Path:
    """Where Collect Activations keeps its caches: output/sae_cache."""
    return Path(folder_paths.get_output_directory(), "sae_cache")


def find_cache(cache: str) -> Path:
    """The folder of this name in output/sae_cache, or of this path. Raises ValueError, which lists those there are."""
    folder = caches_folder() / cache.strip()
    if cache.strip() and (folder / MANIFEST).is_file():
        return folder
    found = sorted(path.parent.name for path in caches_folder().glob(f"*/{MANIFEST}"))
    there = f"It holds: {', '.join(found)}." if found else "It holds none."
    raise ValueError(
        f"There is no cache '{cache.strip()}' in {caches_folder()}. {there} Make one with Collect Activations, and "
        "connect its output here."
    )


def is_trained(
    out: Path, cache: Cache, hookpoint: str, groups: list[str], sae: SAEConfig, options: dict[str, float | None]
) -> bool:
    """Whether there is an SAE file that was made of this very cache with these settings.

    A setting that an older file does not name was off.
    """
    try:
        header = read_header(out)
    except SAEFileError:
        return False
    labels = cache.groups()
    concepts = [(group, name) for group in dict.fromkeys(groups or labels) for name in labels.get(group, ())]
    alike = (
        (header.hookpoint, header.autoencoder) == (hookpoint, sae)
        and [(concept.group, concept.name) for concept in header.concepts] == concepts
        and all(header.training.get(name, False) == value for name, value in options.items())
    )
    if alike and cache.skips_bad_shards and header.training.get("cache") != cache.digest:
        for _ in cache.verify():  # leaves out damaged shards, as the training did
            pass
    return alike and header.training.get("cache") == cache.digest


def choose_hookpoint(cache: Cache, wanted: str) -> str:
    """The hookpoint of this name, or the only one if none is named. Raises CacheError."""
    offered = list(cache.settings.hookpoints)
    if not wanted and len(offered) > 1:
        raise CacheError(f"{cache.folder} holds several hookpoints. Write one as hookpoint: {', '.join(offered)}.")
    return wanted or offered[0]
