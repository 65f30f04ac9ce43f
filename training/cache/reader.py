"""Reading a finished cache."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..prompts import label_groups
from .layout import Layout, are_alike, layout_of, most_usual
from .manifest import CacheError, read_manifest
from .shards import (
    MAP_POSITIONS,
    checksum_path,
    is_written,
    open_shard,
    read_facts,
    read_maps,
    read_shapes,
    sha256_of,
    shard_path,
)
from .storage import SCALE, restored


class Cache:
    """A finished cache, opened for reading."""

    def __init__(self, folder: Path, skip_bad_shards: bool = False):
        """Raises CacheError if there is none, if shards are missing or of the wrong size.

        skip_bad_shards: such shards are left out instead; `self.bad_shards` names them.
        """
        self.folder = folder
        self.settings = read_manifest(folder)
        self.bad_shards: list[str] = []
        self.skips_bad_shards = skip_bad_shards
        unwritten = [s for s in range(self.settings.shards) if not is_written(folder, s)]
        if unwritten and not skip_bad_shards:
            raise CacheError(
                f"{folder} holds {self.settings.shards - len(unwritten)} of {self.settings.shards} shards. Run the "
                "collection again to finish it, or pass --skip-bad-shards to train on what is there."
            )
        self.bad_shards += [shard_path(folder, shard).name for shard in unwritten]
        self._facts = {}
        for shard in sorted(set(range(self.settings.shards)) - set(unwritten)):
            path = shard_path(folder, shard)
            try:
                facts = read_facts(checksum_path(folder, shard))
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
        """Compares every shard with its checksum and with most others, yielding its number of bytes after each.

        Raises CacheError.
        """
        layouts = {shard: self._layout(shard) for shard in self.shards}
        usual = most_usual(layout for layout in layouts.values() if layout)

        def fault(shard: int) -> str | None:
            try:
                if sha256_of(shard_path(self.folder, shard)) != self._facts[shard]["sha256"]:
                    return "is damaged (its checksum is wrong)"
            except OSError as error:  # of a disk that fails
                return f"cannot be read ({error})"
            fits = are_alike(layouts[shard], usual)
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
        """As label_groups, of all images."""
        return label_groups(self.settings.images)

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
                with safe_open(shard_path(self.folder, shard), framework="pt") as file:
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
        with open_shard(self.folder, self.shards[0]) as file:
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
        with open_shard(self.folder, shard) as file:
            vectors = read_maps(file, hookpoint, first, last)
            scale = read_maps(file, hookpoint + SCALE, first, last) if self.settings.storage == "int8" else None
        return vectors, scale

    def sigmas(self, shard: int) -> torch.Tensor:
        """Noise levels fp32 [images, maps]."""
        with open_shard(self.folder, shard) as file:
            return file.get_tensor("sigmas").clone()

    def read_image(self, hookpoint: str, image: int) -> torch.Tensor:
        """All maps of one image, fp32 [maps, positions, width]. Raises CacheError if they are not finite."""
        maps, *_ = self.shape(hookpoint)
        shard, place = divmod(image, self.settings.images_per_shard)
        vectors = restored(*self.read(hookpoint, shard, place * maps, (place + 1) * maps))
        if not torch.isfinite(vectors).all():
            raise CacheError(f"{shard_path(self.folder, shard)} holds NaN or infinity at {hookpoint}. Collect again.")
        return vectors

    def _layout(self, shard: int) -> Layout | None:
        """The layout of a shard's images; None if they differ, are not as many as belong there, or cannot be read."""
        try:
            with safe_open(shard_path(self.folder, shard), framework="pt") as file:
                shapes, sigmas = read_shapes(file, self.settings.hookpoints)
        except (SafetensorError, OSError):
            return None
        numbers = {len(sigmas), *(shape[0] for shape in shapes.values())}
        return layout_of(shapes, sigmas) if numbers == {len(self.settings.shard_images(shard))} else None

    def _bad(self, shard: int, fault: str) -> None:
        path, checksum = shard_path(self.folder, shard), checksum_path(self.folder, shard)
        if not self.skips_bad_shards:
            raise CacheError(
                f"The shard {path} {fault}. Copy it again; or delete {checksum.name} and collect again, which makes "
                "this shard anew; or pass --skip-bad-shards to train without it."
            )
        self.bad_shards.append(path.name)
        self._facts.pop(shard, None)
