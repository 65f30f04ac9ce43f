"""Batches of cached activations: single vectors for the unsupervised phase, whole maps for the supervised one."""

import hashlib
from dataclasses import dataclass

import torch

from .cache import Cache


@dataclass(frozen=True)
class ConceptMaps:
    """Activations with what their pictures show."""

    maps: torch.Tensor
    """fp16 [images, steps, positions, d]."""
    sigmas: torch.Tensor
    """[images, steps]."""
    labels: torch.Tensor
    """bool [images, concepts]."""

    def select(self, images: torch.Tensor) -> "ConceptMaps":
        """The same for some of the images, chosen by a mask [images]."""
        return ConceptMaps(self.maps[images], self.sigmas[images], self.labels[images])

    def vectors(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Random activation vectors, fp32 [count, d]."""
        flat = self.maps.flatten(0, 2)
        return flat[torch.randint(len(flat), (count,), generator=generator)].float()

    def batch(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Random maps at random steps, fp32 [count, positions, d], and their labels, fp32 [count, concepts]."""
        images = torch.randint(len(self.maps), (count,), generator=generator)
        steps = torch.randint(self.maps.shape[1], (count,), generator=generator)
        return self.maps[images, steps].float(), self.labels[images].float()


def load_maps(cache: Cache, hookpoint: str, concepts: list[tuple[str, str]]) -> tuple[ConceptMaps, ConceptMaps]:
    """Training and validation data (one image in ten); the split depends on prompt and seed alone."""
    maps, sigmas = cache.read(hookpoint)
    data = ConceptMaps(maps, sigmas, cache.labels(concepts))
    held_out = torch.tensor([_fraction(f"{image.prompt}|{image.seed}") < 0.1 for image in cache.settings.images])
    return data.select(~held_out), data.select(held_out)


def _fraction(text: str) -> float:
    """A number in 0..1 that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
