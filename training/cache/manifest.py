"""The manifest of a cache: what was sampled, and how it is stored."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

MANIFEST = "manifest.json"
CACHE_VERSION = 2


class CacheError(ValueError):
    """The cache cannot be used; the message names the folder or file, the fault and the remedy."""

    __module__ = "sae_eraser"  # as the page says it before the message


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
    """Sampler, scheduler, steps, cfg, width, height, what was kept: for the reader and for comparing."""
    images: list[CachedImage] = field(repr=False)
    storage: str = "fp16"
    """"fp16", "bf16" or "int8"."""
    images_per_shard: int = 96
    source: list[str] = field(default_factory=list, repr=False)
    """The nodes that the model comes from; empty if that is not known."""

    @property
    def shards(self) -> int:
        return -(-len(self.images) // self.images_per_shard)

    def shard_images(self, shard: int) -> range:
        """Indices of the images in this shard."""
        first = shard * self.images_per_shard
        return range(first, min(first + self.images_per_shard, len(self.images)))


def begun_images_per_shard(folder: Path) -> int | None:
    """How many images a shard of the cache begun in this folder has; None if there is none.

    Raises CacheError if its manifest cannot be read.
    """
    return read_manifest(folder).images_per_shard if (folder / MANIFEST).exists() else None


def manifest_text(settings: CacheSettings) -> str:
    """The text of a manifest with these settings."""
    return json.dumps({"version": CACHE_VERSION, "settings": asdict(settings)}, indent=1)


def read_manifest(folder: Path) -> CacheSettings:
    """Raises CacheError if the folder has none, or one that cannot be read or is of another version."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["version"] != CACHE_VERSION:
            raise CacheError(
                f"{folder} has cache format {manifest['version']}, this pack reads {CACHE_VERSION}. Collect it again "
                "under another name, or use the version of the pack that wrote it."
            )
        settings = manifest["settings"]
        return CacheSettings(**{**settings, "images": [CachedImage(**image) for image in settings["images"]]})
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CacheError(
            f"{folder} is no activation cache: it has no {MANIFEST}. Name a folder that Collect Activations has "
            "written, such as output/sae_cache/my_cache."
        ) from error
    except OSError as error:
        raise CacheError(f"{folder / MANIFEST} cannot be read ({error}). Check its disk and permissions.") from error
    except CacheError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CacheError(
            f"{folder / MANIFEST} cannot be read ({error}). Delete the cache folder and collect again."
        ) from error
