"""What one hookpoint of the cache gives to learn from, and to judge by."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from . import distributed
from .cache.manifest import CacheError
from .data import LabelledImages, choose_images
from .phases import MEASURE, STATISTICS, Progress
from .plan import Plan
from .stream import Stream, held_out, readable

VALIDATION_VECTORS = 16_384
MAPS_OF_A_LABEL = 4
"""To judge by, on average; of large maps fewer positions are taken then."""


@dataclass(frozen=True)
class HookpointData:
    """What is kept at hand of it."""

    stream: Stream
    training: LabelledImages
    validation: LabelledImages
    maps: torch.Tensor
    """Held-out maps, fp32 [maps, positions, d]; the same without the prompt, if they are there; their labels."""
    unprompted: torch.Tensor | None
    labels: torch.Tensor
    """[maps, labels]."""
    held: Stream
    """Where these are from."""


def read_hookpoint(plan: Plan, hookpoint: str, memory: int, progress: Progress) -> HookpointData:
    """memory: bytes for buffered activations. progress: told while images are read one by one.

    Raises CacheError if all activations are the same.
    """

    def told(phase: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(phase, done, total, {})

    cache, concepts, config = plan.cache, plan.concepts, plan.config
    valid, training = readable(cache) & held_out(cache), readable(cache) & ~held_out(cache)
    stream = Stream(cache, hookpoint, training, buffer_bytes=memory, seed=config.seed)
    _, positions, _ = cache.shape(hookpoint)
    held = Stream(cache, hookpoint, valid, buffer_bytes=memory, seed=config.seed)
    maps, unprompted, images = some_maps(held, MAPS_OF_A_LABEL * len(plan.labels))
    maps, unprompted = learned_from(plan, maps, unprompted)
    if torch.equal(maps.amin(dim=(0, 1)), maps.amax(dim=(0, 1))):
        raise CacheError(
            f"In {cache.folder} all activations at {hookpoint} are the same, so there is nothing to learn. Choose "
            "another --hookpoint, or collect at another one."
        )
    shown = choose_images(cache, hookpoint, training, plan.labels, config.statistics_vectors, config.branch)
    judged = choose_images(cache, hookpoint, valid, concepts, config.statistics_vectors // 4, config.branch)
    return HookpointData(
        stream,
        replace(shown, told=told(STATISTICS)),
        replace(judged, told=told(MEASURE)),
        maps,
        unprompted,
        cache.labels(plan.labels)[images].float(),
        held,
    )


def maps_at_once(positions: int) -> int:
    """How many whole maps make up about VALIDATION_VECTORS."""
    return max(8, VALIDATION_VECTORS // positions)


def some_maps(held: Stream, at_least: int) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """So many maps, as Stream.maps gives them; of more than VALIDATION_VECTORS holds, fewer positions each."""
    size = maps_at_once(held.positions)
    batches = -(-at_least // size)
    some = list(itertools.islice(held.maps(size), batches))
    if len(some) == 1:
        return some[0]
    generator = torch.Generator().manual_seed(held.seed)
    places = [torch.randperm(held.positions, generator=generator)[: max(1, held.positions // batches)] for _ in some]
    first, others, images = zip(*some, strict=True)
    maps = torch.cat([part[:, own] for part, own in zip(first, places, strict=True)])
    unprompted = [part[:, own] for part, own in zip(others, places, strict=True) if part is not None]
    return maps, torch.cat(unprompted) if unprompted else None, torch.cat(images)


def learned_from(
    plan: Plan, maps: torch.Tensor, unprompted: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The maps that concepts are learned from, and with the guidance loss those that they are compared with."""
    device = distributed.device()
    if unprompted is None or not (plan.drawn or plan.guided):
        return maps.to(device), None
    return (unprompted.to(device), None) if plan.drawn else (maps.to(device), unprompted.to(device))
