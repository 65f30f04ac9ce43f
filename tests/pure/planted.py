"""A cache of made-up activations with planted concepts: every concept is a random direction, which pictures with the
concept have at about half of their positions."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from sae_eraser.training.cache.manifest import CachedImage, CacheSettings
from sae_eraser.training.cache.reader import Cache
from sae_eraser.training.cache.writer import CacheWriter
from sae_eraser.training.data import LabelledImages

CONCEPTS = [("object", "disc"), ("object", "box"), ("object", "star"), ("style", "wavy"), ("style", "grainy")]
HOOKPOINT = "mid_block.attentions.0"
WIDTH, STEPS, POSITIONS = 16, 3, 16
STRENGTH = 4.0


@dataclass(frozen=True)
class Planted:
    """Pictures, their labels, and the directions of their concepts."""

    images: list[CachedImage]
    maps: torch.Tensor
    """[images, steps, positions, width]."""
    unprompted: torch.Tensor
    """The same without any concept."""
    sigmas: torch.Tensor
    """[images, steps], descending as a sampler goes."""
    directions: torch.Tensor
    """[concepts, width], unit rows."""

    def labels(self) -> torch.Tensor:
        """bool [images, concepts]."""
        return torch.tensor([[name in image.labels[group] for group, name in CONCEPTS] for image in self.images])


def plant(seeds: range) -> Planted:
    """A picture of every object in every style for every seed; the directions are always the same."""
    directions = torch.nn.functional.normalize(
        torch.randn(len(CONCEPTS), WIDTH, generator=torch.Generator().manual_seed(7)), dim=1
    )
    names = {group: [name for kind, name in CONCEPTS if kind == group] for group, _ in CONCEPTS}
    images = [
        CachedImage(f"a {shape} in {style} style", seed, {"object": [shape], "style": [style]})
        for seed in seeds
        for shape in names["object"]
        for style in names["style"]
    ]
    maps, unprompted = (torch.stack(both) for both in zip(*(_maps(image, directions) for image in images), strict=True))
    return Planted(images, maps, unprompted, torch.tensor([8.0, 2.0, 0.5]).repeat(len(images), 1), directions)


def _maps(image: CachedImage, directions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    key = hashlib.sha256(f"{image.prompt}{image.seed}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:4], "big"))
    unprompted = 1.0 + 0.1 * torch.randn(STEPS, POSITIONS, WIDTH, generator=generator)
    maps = unprompted.clone()
    for (group, name), direction in zip(CONCEPTS, directions, strict=True):
        if name in image.labels[group]:
            shown = torch.rand(STEPS, POSITIONS, 1, generator=generator) < 0.5
            maps += STRENGTH * shown * direction
    return maps, unprompted


def write_cache(
    folder: Path, planted: Planted, branch: str = "cond", keep: int = 0, map_positions: dict[str, int] | None = None
) -> Path:
    """Two shards; branch "both" keeps the maps without the prompts as well, keep so many positions of them."""
    half = -(-len(planted.images) // 2)
    sampling = {"steps": STEPS, "branch": branch} | ({"keep_positions": keep} if keep else {})
    settings = CacheSettings("SD15", {HOOKPOINT: WIDTH}, "output", sampling, planted.images, images_per_shard=half)
    writer = CacheWriter(folder, settings)
    maps, sigmas = planted.maps, planted.sigmas
    if branch == "both":
        maps = torch.stack([maps, planted.unprompted], dim=2).flatten(1, 2)
        sigmas = sigmas.repeat_interleave(2, dim=1)
    for shard in range(settings.shards):
        images = settings.shard_images(shard)
        part = slice(images.start, images.stop)
        writer.write_shard(shard, {HOOKPOINT: maps[part, :, : keep or None]}, sigmas[part], map_positions)
    return folder


def labelled_images(folder: Path, planted: Planted) -> LabelledImages:
    """All of them, read from a cache that is written there."""
    cache = Cache(write_cache(folder, planted))
    return LabelledImages(cache, HOOKPOINT, list(range(len(planted.images))), cache.labels(CONCEPTS))
