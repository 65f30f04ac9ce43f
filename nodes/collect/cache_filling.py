"""Samples what a cache still lacks and writes it shard by shard."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ...training.cache.layout import are_alike, layout_of
from ...training.cache.manifest import CacheSettings, begun_images_per_shard
from ...training.cache.storage import bytes_per_vector
from ...training.cache.writer import CacheWriter
from ..sample.sampling_progress import SamplingProgress, size_text

SHARD_BYTES, SHARD_IMAGES = 128_000_000, 8
"""How large shards become, in steps of so many images: no batch goes beyond a shard."""
FILE_BYTES = 8192
"""What a shard takes on the disk besides its tensors, roughly: header, checksum file, blocks that are not full."""

Batch = tuple[dict[str, torch.Tensor], torch.Tensor]
"""Activations by hookpoint, [images, maps, positions, width], and sigmas [images, maps]."""


def read_share(text: str) -> tuple[int, int]:
    """ "2/3", the second of three machines -> (1, 3). Raises ValueError."""
    found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(
            f"shard '{text}' does not say which machine this is. Write 1/1 for one machine alone, or 1/4, 2/4, 3/4 and "
            "4/4 on four machines."
        )
    return int(found[1]) - 1, int(found[2])


def fill_cache(
    folder: Path,
    settings: CacheSettings,
    share: tuple[int, int],
    batch_size: int,
    sample: Callable[[range], Batch],
    progress: SamplingProgress,
    map_positions: dict[str, int],
) -> CacheWriter:
    """Writes every shard of this machine's share (part, parts) that is missing.

    sample(images) -> what these images of settings.images have; at most batch_size, never of two shards.
    map_positions: as Recorder has them, which sample() fills in.
    settings.images_per_shard does not matter: that follows from SHARD_BYTES.
    Raises ValueError before anything is written if the disk cannot hold the share, or if the sampler calls the model at
    other noise levels for every batch; and CacheError.
    """
    sampled = 0
    first: tuple[range, Batch] | None = None
    images_per_shard = begun_images_per_shard(folder)
    if images_per_shard is None:
        images = range(min(batch_size, len(settings.images)))
        first = (images, sample(images))
        step = SHARD_IMAGES * image_bytes(first[1], settings.storage)
        images_per_shard = SHARD_IMAGES * max(1, SHARD_BYTES // step)
        sampled = len(images)
    settings = replace(settings, images_per_shard=images_per_shard)
    writer = CacheWriter(folder, settings)
    missing = writer.missing(*share)
    own = sum(len(settings.shard_images(shard)) for shard in range(share[0], settings.shards, share[1]))
    lacking = sum(len(settings.shard_images(shard)) for shard in missing)
    layout = writer.layout()
    size = 0
    for shard in missing:
        batches = []
        indices = settings.shard_images(shard)
        for start in range(0, len(indices), batch_size):
            images = indices[start : start + batch_size]
            if first and first[0][: len(images)] == images:
                batch = _leading(first[1], len(images))
            else:
                batch = sample(images)
                sampled += len(images)
            if not size:
                size = image_bytes(batch, settings.storage)
                _check_disk(folder, lacking * size + len(missing) * FILE_BYTES)
            its_layout = layout_of({name: tuple(tensor.shape) for name, tensor in batch[0].items()}, batch[1])
            layout = layout or its_layout
            if not are_alike(its_layout, layout):
                raise ValueError(
                    "The sampler calls the model at other noise levels for every batch (as dpm_adaptive does), so what "
                    "is usual at each cannot be told. Choose another sampler."
                )
            batches.append(batch)
            lacking -= len(images)
            progress.show(own - lacking, own, sampled, own * size)
        first = None
        activations = {name: torch.cat([activations[name] for activations, _ in batches]) for name in batches[0][0]}
        writer.write_shard(shard, activations, torch.cat([sigmas for _, sigmas in batches]), map_positions)
    return writer


def image_bytes(batch: Batch, storage: str) -> int:
    """Bytes that one image takes in a shard."""
    activations, sigmas = batch
    vectors = sum(
        maps * positions * bytes_per_vector(width, storage)
        for _, maps, positions, width in (tensor.shape for tensor in activations.values())
    )
    return vectors + 4 * sigmas.shape[1]


def _leading(batch: Batch, images: int) -> Batch:
    """The first images of it."""
    return {name: tensor[:images] for name, tensor in batch[0].items()}, batch[1][:images]


def _check_disk(folder: Path, needed: int) -> None:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise ValueError(
            f"The cache needs {size_text(needed)} more, but the disk of {folder} has {size_text(free)} free. Free some "
            "space, keep fewer steps or positions, or store as int8; or share the work with shard between machines "
            "that have a disk each."
        )
