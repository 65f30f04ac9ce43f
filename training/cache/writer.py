"""Writing a cache, shard by shard."""

import json
from dataclasses import fields
from pathlib import Path

import torch
from safetensors.torch import save_file

from ...sae_ops.atomic_write import DiskFull, remove_parts, write_atomically
from .layout import Layout, layout_of
from .manifest import MANIFEST, CacheError, CacheSettings, manifest_text, read_manifest
from .shards import MAP_POSITIONS, checksum_path, facts_of, is_written, open_shard, read_shapes, shard_path
from .storage import stored


class CacheWriter:
    """Writes shards, and knows which of them an earlier run with the same settings has written."""

    def __init__(self, folder: Path, settings: CacheSettings):
        """Writes nothing yet. Raises CacheError if the folder holds a cache with other settings."""
        self.folder, self.settings = folder, settings
        self._begun = self._has_manifest()

    def missing(self, part: int = 0, parts: int = 1) -> list[int]:
        """The shards still to be written of every parts-th, counted from `part`."""
        return [shard for shard in range(part, self.settings.shards, parts) if not is_written(self.folder, shard)]

    def layout(self) -> Layout | None:
        """The layout of the images in the shards; None if there are none. Raises CacheError if it cannot be read."""
        for shard in range(self.settings.shards):
            if is_written(self.folder, shard) and shard_path(self.folder, shard).exists():
                with open_shard(self.folder, shard) as file:
                    return layout_of(*read_shapes(file, self.settings.hookpoints))
        return None

    def write_shard(
        self,
        shard: int,
        activations: dict[str, torch.Tensor],
        sigmas: torch.Tensor,
        map_positions: dict[str, int] | None = None,
    ) -> None:
        """Writes one shard, and then its checksum.

        activations: per hookpoint [images, maps, positions, width]; sigmas [images, maps]. map_positions: how many
        positions whole maps have at the hookpoints; None if these are whole.

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
            self._write(self.folder / MANIFEST, lambda part: part.write_text(manifest_text(self.settings)))
        self._begun = True
        path = shard_path(self.folder, shard)
        remove_parts(path.parent, {path.name})
        metadata = {MAP_POSITIONS: json.dumps(map_positions)} if map_positions else None
        self._write(path, lambda part: save_file(tensors, part, metadata))
        facts = json.dumps(facts_of(path))
        self._write(checksum_path(self.folder, shard), lambda part: part.write_text(facts))

    def _has_manifest(self) -> bool:
        if not (self.folder / MANIFEST).exists():
            return False
        found = read_manifest(self.folder)
        own = self.settings
        if found.source and own.source and found.source != own.source:
            was = [line for line in found.source if line not in own.source]
            now = [line for line in own.source if line not in found.source]
            raise CacheError(
                f"{self.folder} holds a cache of another model. It has: {'; '.join(was)}. Now there is: "
                f"{'; '.join(now)}. Choose another name, or connect the model that was collected."
            )
        if differences := _differences(found, own):
            raise CacheError(
                f"{self.folder} holds a cache made with other settings ({'; '.join(differences)}). Choose another "
                "name, or delete that folder."
            )
        return True

    def _write(self, path: Path, write) -> None:
        try:
            write_atomically(path, write)
        except DiskFull as error:
            raise CacheError(
                f"The disk of {self.folder} is full. Free some space and run the same again: it goes on at {path.name}."
            ) from error


def _differences(found: CacheSettings, own: CacheSettings) -> list[str]:
    """What the settings differ in besides the model's source, with what was found and what is wanted."""
    differences = []
    for name in (each.name for each in fields(CacheSettings) if each.name != "source"):
        was, now = getattr(found, name), getattr(own, name)
        if name == "images":
            differences += ["prompts, labels, seeds or first_seed differ"] if was != now else []
            continue
        before, after = (value if isinstance(value, dict) else {name: value} for value in (was, now))
        pairs = {key: (before.get(key, "missing"), after.get(key, "missing")) for key in before | after}
        differences += [f"{key} was {was}, is {now}" for key, (was, now) in pairs.items() if was != now]
    return differences
