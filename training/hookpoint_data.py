"""What one hookpoint of the cache gives to learn from, and to judge by."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from . import distributed
from .cache.manifest import CacheError
from .data import LabelledImages, choose_images
from .held_out import training_and_validation
from .phases import Progress
from .plan import Plan
from .stream import Stream

VALIDATION_VECTORS = 16_384
VALIDATION_MAPS_PER_LABEL = 4
"""On average; of large maps fewer positions are taken then."""


@dataclass(frozen=True)
class HookpointData:
    """What one training reads at a hookpoint, to learn from and to validate on."""

    training_stream: Stream
    training_images: LabelledImages
    validation_stream: Stream
    validation_images: LabelledImages
    validation_maps: torch.Tensor
    """Some of the validation stream, fp32 [maps, positions, d]."""
    validation_unprompted: torch.Tensor | None
    """The same maps without the prompt, if they are learned from as well."""
    validation_labels: torch.Tensor
    """fp32 0/1 [maps, labels]."""
    progress: Progress

    def told_as(self, phase: str, images: LabelledImages) -> LabelledImages:
        """These images; `progress` is told of this phase while they are read."""
        return replace(images, on_image=lambda done, total: self.progress(phase, done, total, {}))


def read_hookpoint(plan: Plan, hookpoint: str, memory: int, progress: Progress) -> HookpointData:
    """Opens what training needs of the cache.

    memory: bytes for buffered activations. progress: to be told while images are read one by one. Raises CacheError if
    all activations are the same.
    """
    cache, config = plan.cache, plan.config
    training, validation = training_and_validation(cache)
    training_stream, validation_stream = (
        Stream(cache, hookpoint, images, buffer_bytes=memory, seed=config.seed) for images in (training, validation)
    )
    maps, unprompted, images = some_maps(validation_stream, VALIDATION_MAPS_PER_LABEL * len(plan.labels))
    maps, unprompted = choose_half(plan, maps, unprompted)
    if torch.equal(maps.amin(dim=(0, 1)), maps.amax(dim=(0, 1))):
        raise CacheError(
            f"In {cache.folder} all activations at {hookpoint} are the same, so there is nothing to learn. Choose "
            "another --hookpoint, or collect at another one."
        )
    vectors = config.statistics_vectors
    return HookpointData(
        training_stream,
        choose_images(cache, hookpoint, training, plan.labels, vectors, config.branch),
        validation_stream,
        choose_images(cache, hookpoint, validation, plan.concepts, vectors // 4, config.branch),
        maps,
        unprompted,
        cache.labels(plan.labels)[images].float(),
        progress,
    )


def maps_at_once(positions: int) -> int:
    """How many whole maps make up about VALIDATION_VECTORS."""
    return max(8, VALIDATION_VECTORS // positions)


def batches_of_maps(stream: Stream, at_least: int) -> Iterator[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]]:
    """Batches as Stream.maps gives them, until there are so many maps, or all of the stream."""
    missing = min(at_least, stream.maps_in_all)
    for batch in stream.maps(maps_at_once(stream.positions)):
        yield batch
        missing -= len(batch[0])
        if missing <= 0:
            return


def some_maps(stream: Stream, at_least: int) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """So many maps at least, or all; of more than VALIDATION_VECTORS holds, some positions of each, of all the same."""
    some = list(batches_of_maps(stream, at_least))
    if len(some) == 1:
        return some[0]
    generator = torch.Generator().manual_seed(stream.seed)
    number = sum(len(maps) for maps, _, _ in some)
    fewer = max(1, min(stream.positions, stream.positions * maps_at_once(stream.positions) // number))
    places = [torch.randperm(stream.positions, generator=generator)[:fewer] for _ in some]
    first, others, images = zip(*some, strict=True)
    maps = torch.cat([part[:, own] for part, own in zip(first, places, strict=True)])
    unprompted = [part[:, own] for part, own in zip(others, places, strict=True) if part is not None]
    return maps, torch.cat(unprompted) if unprompted else None, torch.cat(images)


def choose_half(
    plan: Plan, maps: torch.Tensor, unprompted: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The maps that concepts are learned from, and with the guidance loss those that they are compared with."""
    device = distributed.device()
    if unprompted is None or not plan.learns_with_all:
        return maps.to(device), None
    return (unprompted.to(device), None) if plan.learns_drawn else (maps.to(device), unprompted.to(device))
