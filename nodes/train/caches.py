"""What Train SAE asks of a cache of activations: which hookpoints it has, and what was trained on it."""

from pathlib import Path

from ...sae_ops.autoencoder import SAEConfig
from ...sae_ops.sae_file import SAEFileError, read_header
from ...training.cache.manifest import CacheError
from ...training.cache.reader import Cache
from ...training.config import TrainingConfig


def is_trained(
    out: Path, cache: Cache, hookpoint: str, groups: list[str], sae: SAEConfig, config: TrainingConfig
) -> bool:
    """Whether there is an SAE file that was made of this very cache with these settings."""
    try:
        header = read_header(out)
    except SAEFileError:
        return False
    labels = cache.groups()
    concepts = [(group, name) for group in dict.fromkeys(groups or labels) for name in labels.get(group, ())]
    alike = (
        (header.hookpoint, header.autoencoder) == (hookpoint, sae)
        and [(concept.group, concept.name) for concept in header.concepts] == concepts
        and config.has_trained(header.training)
        and "extended" not in header.training
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
