"""The two files of a shard: its tensors, and the checksum that makes it count."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from .manifest import CacheError

MAP_POSITIONS = "map_positions"
"""In the metadata of a shard that holds some of the positions: how many whole maps have at each hookpoint, as JSON."""


def shard_path(folder: Path, shard: int) -> Path:
    """Where the tensors of a shard are."""
    return folder / f"shard-{shard:05d}.safetensors"


def checksum_path(folder: Path, shard: int) -> Path:
    """Where the checksum of a shard is."""
    return folder / f"shard-{shard:05d}.json"


def is_written(folder: Path, shard: int) -> bool:
    """Whether the shard counts."""
    return checksum_path(folder, shard).exists()


def open_shard(folder: Path, shard: int):
    """The shard's safetensors file, to be used with `with`. Raises CacheError if it cannot be read."""
    path = shard_path(folder, shard)
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CacheError(
            f"The shard {path} cannot be read ({error}). Delete {checksum_path(folder, shard).name} and "
            "collect again, which makes this shard anew."
        ) from error


def read_shapes(file, hookpoints: Iterable[str]) -> tuple[dict[str, tuple[int, ...]], torch.Tensor]:
    """(images, maps, positions, width) at every hookpoint, and the noise levels fp32 [images, maps]."""
    return {name: tuple(file.get_slice(name).get_shape()) for name in hookpoints}, file.get_tensor("sigmas")


def read_maps(file, name: str, first: int, last: int) -> torch.Tensor:
    """Rows first..last-1 of [images, maps, ...] with the two leading dimensions taken as one."""
    part = file.get_slice(name)
    maps = part.get_shape()[1]
    images = part[first // maps : -(-last // maps)]
    return images.flatten(0, 1)[first % maps : first % maps + last - first]


def facts_of(path: Path) -> dict:
    """What the checksum file of these tensors says: their SHA-256 and their size."""
    return {"sha256": sha256_of(path), "bytes": path.stat().st_size}


def read_facts(path: Path) -> dict:
    """facts_of(), as written to a checksum file. Raises OSError, KeyError, TypeError or ValueError."""
    facts = json.loads(path.read_text())
    return {"sha256": str(facts["sha256"]), "bytes": int(facts["bytes"])}


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file of any size."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
