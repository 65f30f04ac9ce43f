"""The activation cache: a folder of safetensors shards.

    manifest.json              what is sampled, and into how many shards it goes; written with the first shard
    shard-00000.safetensors    for consecutive images "<hookpoint name>" [images, maps, positions, width] in the
                               cache's storage (see storage.py) and "sigmas" fp32 [images, maps]; where some of a
                               map's positions are kept, in its metadata how many a whole map has
    shard-00000.json           its checksum, written last: a shard without one does not count

A map is what one image has at one call of the model: [positions, width] at a hookpoint. Where both halves of guidance
are kept, an image has two maps of each call, the conditional one first. Everything is written atomically, so a stop at
any moment loses at most the shard being written, and several machines can write shards of one cache.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..sae_ops.atomic_write import DiskFull, write_atomically
from .storage import SCALE, restored, stored

MANIFEST = "manifest.json"
MAP_POSITIONS = "map_positions"
CACHE_VERSION = 2

Layout = tuple[dict[str, tuple[int, ...]], torch.Tensor]
"""What an image has: (maps, positions, width) at every hookpoint, and noise levels [maps]."""


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
    """Of the cache that was begun in this folder; None if there is none. Raises CacheError if it cannot be read."""
    return _read_manifest(folder).images_per_shard if (folder / MANIFEST).exists() else None


class CacheWriter:
    """Writes shards, and knows which of them an earlier run with the same settings has written."""

    def __init__(self, folder: Path, settings: CacheSettings):
        """Writes nothing yet. Raises CacheError if the folder holds a cache with other settings."""
        self.folder, self.settings = folder, settings
        self._begun = self._has_manifest()

    def missing(self, part: int = 0, parts: int = 1) -> list[int]:
        """The shards still to be written of every parts-th, counted from `part`."""
        return [
            shard for shard in range(part, self.settings.shards, parts) if not _checksum(self.folder, shard).exists()
        ]

    def layout(self) -> Layout | None:
        """What the images in the shards have; None if there are none. Raises CacheError if it cannot be read."""
        for shard in range(self.settings.shards):
            if _checksum(self.folder, shard).exists() and _shard(self.folder, shard).exists():
                with _opened(self.folder, shard) as file:
                    sigmas = file.get_tensor("sigmas")
                    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in self.settings.hookpoints}
                return layout_of(shapes, sigmas)
        return None

    def write_shard(
        self,
        shard: int,
        activations: dict[str, torch.Tensor],
        sigmas: torch.Tensor,
        map_positions: dict[str, int] | None = None,
    ) -> None:
        """Its images: per hookpoint [images, maps, positions, width], and sigmas [images, maps].

        map_positions: how many positions whole maps have at the hookpoints; None if these are whole.

        Raises CacheError if values are not finite or the disk is full, ValueError if they do not fit into fp16.
        """
        tensors = {"sigmas": sigmas.float().contiguous()}
        for name, tensor in activations.items():
            if not torch.isfinite(tensor).all():
                raise CacheError(
                    f"The activations at {name} hold NaN or infinity; the model or its precision is at fault. "
                    "Start ComfyUI with --fp32-unet, or choose another checkpoint."
                )
            tensors |= stored(name, tensor, self.settings.storage)
        if not self._begun and not self._has_manifest():
            manifest = json.dumps({"version": CACHE_VERSION, "settings": asdict(self.settings)}, indent=1)
            self._write(self.folder / MANIFEST, lambda part: part.write_text(manifest))
        self._begun = True
        path = _shard(self.folder, shard)
        for leftover in self.folder.glob(f"{path.stem}.*.part"):  # of a process that was killed while it wrote
            leftover.unlink(missing_ok=True)
        metadata = {MAP_POSITIONS: json.dumps(map_positions)} if map_positions else None
        self._write(path, lambda part: save_file(tensors, part, metadata))
        facts = json.dumps({"sha256": _sha256(path), "bytes": path.stat().st_size})
        self._write(_checksum(self.folder, shard), lambda part: part.write_text(facts))

    def _has_manifest(self) -> bool:
        if not (self.folder / MANIFEST).exists():
            return False
        found = _read_manifest(self.folder)
        own = self.settings
        if found.source and own.source and found.source != own.source:
            was = [line for line in found.source if line not in own.source]
            now = [line for line in own.source if line not in found.source]
            raise CacheError(
                f"{self.folder} holds a cache of another model. It has: {'; '.join(was)}. Now there is: "
                f"{'; '.join(now)}. Choose another name, or connect the model that was collected."
            )
        names = [each.name for each in fields(CacheSettings) if each.name != "source"]
        differing = [name for name in names if getattr(found, name) != getattr(own, name)]
        if differing:
            raise CacheError(
                f"{self.folder} holds a cache made with other settings ({', '.join(differing)}). Choose another name, "
                "or delete that folder."
            )
        return True

    def _write(self, path: Path, write) -> None:
        try:
            write_atomically(path, write)
        except DiskFull as error:
            raise CacheError(
                f"The disk of {self.folder} is full. Free some space and run the same again: it goes on at {path.name}."
            ) from error


class Cache:
    """A finished cache, opened for reading."""

    def __init__(self, folder: Path, skip_bad_shards: bool = False):
        """Raises CacheError if there is none, if shards are missing or of the wrong size.

        skip_bad_shards: such shards are left out instead; `self.bad_shards` names them.
        """
        self.folder = folder
        self.settings = _read_manifest(folder)
        self.bad_shards: list[str] = []
        self.skips_bad_shards = skip_bad_shards
        unwritten = [s for s in range(self.settings.shards) if not _checksum(folder, s).exists()]
        if unwritten and not skip_bad_shards:
            raise CacheError(
                f"{folder} holds {self.settings.shards - len(unwritten)} of {self.settings.shards} shards. Run the "
                "collection again to finish it, or pass --skip-bad-shards to train on what is there."
            )
        self.bad_shards += [_shard(folder, shard).name for shard in unwritten]
        self._facts = {}
        for shard in sorted(set(range(self.settings.shards)) - set(unwritten)):
            path = _shard(folder, shard)
            try:
                facts = _read_facts(_checksum(folder, shard))
            except (OSError, KeyError, TypeError, ValueError) as error:
                self._bad(shard, f"has a checksum file that cannot be read ({error})")
                continue
            if not path.is_file():
                self._bad(shard, "is missing")
            elif path.stat().st_size != facts["bytes"]:
                self._bad(shard, f"has {path.stat().st_size} bytes instead of {facts['bytes']}")
            else:
                self._facts[shard] = facts

    @property
    def shards(self) -> list[int]:
        """The shards that can be read."""
        return list(self._facts)

    @property
    def images(self) -> list[int]:
        """Indices into settings.images of all images that can be read, in the order of the shards."""
        return [image for shard in self.shards for image in self.settings.shard_images(shard)]

    def verify(self) -> Iterator[int]:
        """Compares every shard with its checksum and with the first, yielding its number of bytes after each.

        Raises CacheError.
        """
        first = next((layout for shard in self.shards if (layout := self._layout(shard))), None)

        def fault(shard: int) -> str | None:
            try:
                if _sha256(_shard(self.folder, shard)) != self._facts[shard]["sha256"]:
                    return "is damaged (its checksum is wrong)"
            except OSError as error:  # of a disk that fails
                return f"cannot be read ({error})"
            fits = are_alike(self._layout(shard), first)
            return None if fits else "does not fit the others: it has other hookpoints, maps or noise levels"

        with ThreadPoolExecutor(4) as pool:
            for shard, found in zip(self.shards, pool.map(fault, self.shards), strict=True):
                yield self._facts[shard]["bytes"]
                if found:
                    self._bad(shard, found)

    @property
    def bytes(self) -> int:
        return sum(facts["bytes"] for facts in self._facts.values())

    @property
    def digest(self) -> str:
        """SHA-256 of the settings and of the checksums of all shards that can be read: the same for equal caches."""
        settings = {**vars(self.settings), "images": [vars(image) for image in self.settings.images]}
        facts = [settings, [[shard, self._facts[shard]["sha256"]] for shard in self.shards]]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def halves(self) -> int:
        """2 if of every call both halves of guidance are kept, the conditional one first; else 1."""
        return 2 if self.settings.sampling.get("branch") == "both" else 1

    def groups(self) -> dict[str, list[str]]:
        """Every group of labels and its names, in the order of first appearance."""
        found: dict[str, dict[str, None]] = {}
        for image in self.settings.images:
            for group, names in image.labels.items():
                found.setdefault(group, {}).update(dict.fromkeys(names))
        return {group: list(names) for group, names in found.items()}

    def labels(self, concepts: Sequence[tuple[str, str]]) -> torch.Tensor:
        """(group, name) pairs -> bool [settings.images, concepts]."""
        columns = {concept: column for column, concept in enumerate(concepts)}
        found = torch.zeros(len(self.settings.images), len(concepts), dtype=torch.bool)
        shown = [
            (row, columns[group, name])
            for row, image in enumerate(self.settings.images)
            for group, names in image.labels.items()
            for name in names
            if (group, name) in columns
        ]
        if shown:
            found[tuple(torch.tensor(shown).T)] = True
        return found

    def shape(self, hookpoint: str) -> tuple[int, int, int]:
        """(maps of an image, positions, width) at a hookpoint. Raises CacheError if the cache has none of that name."""
        if hookpoint not in self.settings.hookpoints:
            names = ", ".join(self.settings.hookpoints)
            raise CacheError(f"{self.folder} holds nothing of '{hookpoint}'. It holds: {names}.")
        for shard in self.shards:
            try:
                with safe_open(_shard(self.folder, shard), framework="pt") as file:
                    _, maps, positions, width = file.get_slice(hookpoint).get_shape()
                return maps, positions, width
            except (SafetensorError, OSError) as error:
                self._bad(shard, f"cannot be read ({error})")
        raise CacheError(f"{self.folder} has no shard that can be read. Collect again.")

    def map_positions(self, hookpoint: str) -> int:
        """How many positions a whole map has at a hookpoint, of which the cache may hold some.

        Raises CacheError if it does not say so.
        """
        _, positions, _ = self.shape(hookpoint)
        if positions != self.settings.sampling.get("keep_positions"):
            return positions
        with _opened(self.folder, self.shards[0]) as file:
            known = json.loads((file.metadata() or {}).get(MAP_POSITIONS, "{}"))
        if hookpoint not in known:
            raise CacheError(
                f"{self.folder} does not say of how many positions its {positions} for each map were drawn "
                "(keep_positions), which sparing look-alikes needs. Collect again under another name."
            )
        return known[hookpoint]

    def read(self, hookpoint: str, shard: int, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Maps first..last-1 of a shard, images after one another: as stored [maps, positions, width], and scales.

        Reads these bytes alone; restored() makes fp32 of them.
        """
        with _opened(self.folder, shard) as file:
            vectors = _read_maps(file, hookpoint, first, last)
            scale = _read_maps(file, hookpoint + SCALE, first, last) if self.settings.storage == "int8" else None
        return vectors, scale

    def sigmas(self, shard: int) -> torch.Tensor:
        """Noise levels fp32 [images, maps]."""
        with _opened(self.folder, shard) as file:
            return file.get_tensor("sigmas").clone()

    def read_image(self, hookpoint: str, image: int) -> torch.Tensor:
        """All maps of one image, fp32 [maps, positions, width]. Raises CacheError if they are not finite."""
        maps, *_ = self.shape(hookpoint)
        shard, place = divmod(image, self.settings.images_per_shard)
        vectors = restored(*self.read(hookpoint, shard, place * maps, (place + 1) * maps))
        if not torch.isfinite(vectors).all():
            raise CacheError(f"{_shard(self.folder, shard)} holds NaN or infinity at {hookpoint}. Collect again.")
        return vectors

    def _layout(self, shard: int) -> Layout | None:
        """What the shard's images have; None if they differ, are not as many as belong there, or cannot be read."""
        try:
            with safe_open(_shard(self.folder, shard), framework="pt") as file:
                sigmas = file.get_tensor("sigmas")
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in self.settings.hookpoints}
        except (SafetensorError, OSError):
            return None
        numbers = {len(sigmas), *(shape[0] for shape in shapes.values())}
        return layout_of(shapes, sigmas) if numbers == {len(self.settings.shard_images(shard))} else None

    def _bad(self, shard: int, fault: str) -> None:
        path = _shard(self.folder, shard)
        if not self.skips_bad_shards:
            raise CacheError(
                f"The shard {path} {fault}. Copy it again; or delete {_checksum(self.folder, shard).name} and collect "
                "again, which makes this shard anew; or pass --skip-bad-shards to train without it."
            )
        self.bad_shards.append(path.name)
        self._facts.pop(shard, None)


def layout_of(shapes: dict[str, tuple[int, ...]], sigmas: torch.Tensor) -> Layout | None:
    """That of each of several images, (images, maps, positions, width) at every hookpoint and [images, maps]; None if
    they have different noise levels."""
    each = {name: shape[1:] for name, shape in shapes.items()}
    return (each, sigmas[0].clone()) if _are_same_levels(sigmas, sigmas[0]) else None


def are_alike(first: Layout | None, second: Layout | None) -> bool:
    """Whether two images have the same, noise levels but for rounding. None is like nothing."""
    if first is None or second is None:
        return False
    return first[0] == second[0] and _are_same_levels(first[1], second[1])


def _are_same_levels(sigmas: torch.Tensor, of_one: torch.Tensor) -> bool:
    """[..., maps] and [maps]."""
    same_number = sigmas.shape[-1] == len(of_one)
    return same_number and torch.allclose(sigmas, of_one.expand_as(sigmas), rtol=1e-3, atol=1e-6)


def _opened(folder: Path, shard: int):
    try:
        return safe_open(_shard(folder, shard), framework="pt")
    except (SafetensorError, OSError) as error:
        raise CacheError(
            f"The shard {_shard(folder, shard)} cannot be read ({error}). Delete {_checksum(folder, shard).name} and "
            "collect again, which makes this shard anew."
        ) from error


def _read_maps(file, name: str, first: int, last: int) -> torch.Tensor:
    """Rows first..last-1 of [images, maps, ...] with the two leading dimensions taken as one."""
    part = file.get_slice(name)
    maps = part.get_shape()[1]
    images = part[first // maps : -(-last // maps)]
    return images.flatten(0, 1)[first % maps : first % maps + last - first]


def _shard(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.safetensors"


def _checksum(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.json"


def _read_facts(path: Path) -> dict:
    facts = json.loads(path.read_text())
    return {"sha256": str(facts["sha256"]), "bytes": int(facts["bytes"])}


def _read_manifest(folder: Path) -> CacheSettings:
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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
