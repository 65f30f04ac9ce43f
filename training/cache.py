"""The activation cache: a folder of safetensors shards and a manifest that says what lies in them.

Each shard holds, for consecutive images, "<hookpoint name>" fp16 [images, steps, positions, width] and
"sigmas" fp32 [images, steps]. A shard counts once the manifest names it with its checksum; both are written
atomically, so that a stop at any moment loses at most the shard being written.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from ..sae_ops.atomic_write import write_atomically

MANIFEST = "manifest.json"
CACHE_VERSION = 1


class CacheError(ValueError):
    """The cache cannot be used; the message names the folder or file, the fault and the remedy."""


@dataclass(frozen=True)
class CachedImage:
    """One image whose activations are cached."""

    prompt: str
    seed: int
    labels: dict[str, list[str]]


@dataclass(frozen=True)
class CacheSettings:
    """What was sampled and where it was read; a cache goes on only with equal settings."""

    model_family: str
    hookpoints: dict[str, int]
    """diffusers' name -> width."""
    hooked: str
    sampling: dict
    """Sampler, scheduler, steps, cfg, width, height: for the reader and for comparing."""
    images: list[CachedImage] = field(repr=False)


class CacheWriter:
    """Writes a cache shard by shard and goes on where an earlier run with the same settings stopped."""

    def __init__(self, folder: Path, settings: CacheSettings):
        """Raises CacheError if the folder holds a cache with other settings."""
        self.folder = folder
        self.manifest: dict = {"version": CACHE_VERSION, "settings": asdict(settings), "shards": []}
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / MANIFEST).exists():
            existing = _read_manifest(folder)
            if existing["settings"] != self.manifest["settings"]:
                raise CacheError(
                    f"{folder} holds a cache made with other settings. Choose another name, or delete that folder."
                )
            self.manifest = existing

    @property
    def images_done(self) -> int:
        return sum(shard["images"] for shard in self.manifest["shards"])

    def write_shard(self, activations: dict[str, torch.Tensor], sigmas: torch.Tensor) -> None:
        """The next images: per hookpoint [images, steps, positions, width], and sigmas [images, steps]."""
        tensors = {name: tensor.half().contiguous() for name, tensor in activations.items()}
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise CacheError(
                    f"The activations at {name} hold NaN or infinity; the model or its precision is at fault."
                )
        file = f"shard-{len(self.manifest['shards']):05d}.safetensors"
        path = self.folder / file
        write_atomically(path, lambda part: save_file({**tensors, "sigmas": sigmas.float().contiguous()}, part))
        self.manifest["shards"].append({"file": file, "images": len(sigmas), "sha256": _sha256(path.read_bytes())})
        write_atomically(self.folder / MANIFEST, lambda part: part.write_text(json.dumps(self.manifest, indent=1)))


class Cache:
    """A cache opened for reading."""

    def __init__(self, folder: Path):
        """Raises CacheError if there is none or if it is not finished."""
        self.folder = folder
        manifest = _read_manifest(folder)
        settings = manifest["settings"]
        self.settings = CacheSettings(**{**settings, "images": [CachedImage(**image) for image in settings["images"]]})
        self._shards = manifest["shards"]
        done = sum(shard["images"] for shard in self._shards)
        if done != len(self.settings.images):
            raise CacheError(
                f"{folder} holds {done} of {len(self.settings.images)} images. Run the collection again to finish it."
            )

    def groups(self) -> dict[str, list[str]]:
        """Every group of labels and its names, in the order of first appearance."""
        found: dict[str, dict[str, None]] = {}
        for image in self.settings.images:
            for group, names in image.labels.items():
                found.setdefault(group, {}).update(dict.fromkeys(names))
        return {group: list(names) for group, names in found.items()}

    def labels(self, concepts: Sequence[tuple[str, str]]) -> torch.Tensor:
        """(group, name) pairs -> bool [images, concepts]."""
        images = self.settings.images
        return torch.tensor([[name in image.labels.get(group, ()) for group, name in concepts] for image in images])

    def read(self, hookpoint: str) -> tuple[torch.Tensor, torch.Tensor]:
        """All activations of one hookpoint, fp16 [images, steps, positions, width], and sigmas [images, steps].

        Every shard's checksum is verified. Raises CacheError if one is missing or damaged.
        """
        if hookpoint not in self.settings.hookpoints:
            names = ", ".join(self.settings.hookpoints)
            raise CacheError(f"{self.folder} holds nothing of '{hookpoint}'. It holds: {names}.")
        tensors = [self._read_shard(shard) for shard in self._shards]
        return torch.cat([t[hookpoint] for t in tensors]), torch.cat([t["sigmas"] for t in tensors])

    def _read_shard(self, shard: dict) -> dict[str, torch.Tensor]:
        path = self.folder / shard["file"]
        remedy = "Copy it again, or delete the cache folder and collect again."
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CacheError(f"The shard {path} cannot be read ({error}). {remedy}") from error
        if _sha256(content) != shard["sha256"]:
            raise CacheError(f"The shard {path} is damaged (its checksum is wrong). {remedy}")
        try:
            return load(content)
        except SafetensorError as error:
            raise CacheError(f"The shard {path} is damaged ({error}). {remedy}") from error


def _read_manifest(folder: Path) -> dict:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["version"] != CACHE_VERSION:
            raise CacheError(
                f"{folder} has cache format {manifest['version']}, this pack reads {CACHE_VERSION}. Update the pack."
            )
        return {"version": CACHE_VERSION, "settings": manifest["settings"], "shards": manifest["shards"]}
    except FileNotFoundError as error:
        raise CacheError(f"{folder} is no activation cache: it has no {MANIFEST}.") from error
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise CacheError(
            f"{folder / MANIFEST} cannot be read ({error}). Delete the cache folder and collect again."
        ) from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
