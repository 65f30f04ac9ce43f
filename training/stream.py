"""Shuffled batches from a cache that need not fit into memory.

Training reads *loads*: random pieces of about a megabyte, each in one go from one shard, until the buffer is full; the
batches come from the shuffled load while a thread reads the next one. Which vectors make up batch i depends on the seed
and i alone, so a run that was stopped goes on with the very batches it would have had.
"""

import hashlib
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction

import torch

from .cache.manifest import CacheError
from .cache.reader import Cache
from .cache.storage import bytes_per_vector, empty, restored

PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Load:
    """Maps in memory, as stored."""

    vectors: torch.Tensor
    """[maps, positions, d] in the dtype of the cache."""
    scale: torch.Tensor | None
    """[maps, positions] of int8."""
    images: torch.Tensor
    """int64 [maps], indices into the cache's images."""


class Stream:
    """Batches of the chosen images' activations at one hookpoint, epoch after epoch without end."""

    def __init__(self, cache: Cache, hookpoint: str, images: torch.Tensor, *, buffer_bytes: int, seed: int):
        """images: bool, one for each of the cache's. buffer_bytes: for the load in use and the next together."""
        self.cache, self.hookpoint, self.images, self.seed = cache, hookpoint, images, seed
        self.maps_per_image, self.positions, self.width = cache.shape(hookpoint)
        map_bytes = self.positions * bytes_per_vector(self.width, cache.settings.storage)
        maps_per_piece = cache.halves * max(1, PIECE_BYTES // map_bytes // cache.halves)
        pieces, counts = [], []
        for shard in cache.shards:
            chosen = images[list(cache.settings.shard_images(shard))].repeat_interleave(self.maps_per_image)
            for first in range(0, len(chosen), maps_per_piece):
                part = chosen[first : first + maps_per_piece]
                if part.any():
                    pieces.append((shard, first, first + len(part)))
                    counts.append(int(part.sum()))
        if not pieces:
            raise CacheError(f"{cache.folder} has no image to train on. Collect more seeds.")
        self._pieces, self._counts = pieces, torch.tensor(counts)
        self._pieces_per_load = max(1, buffer_bytes // 2 // (maps_per_piece * map_bytes))
        self._reader = ThreadPoolExecutor(1)  # one, so that what is still read of older batches is gone before the next
        self._all: Load | None = None  # once the whole cache is one load

    @property
    def maps_in_all(self) -> int:
        """How many different ones maps() gives."""
        return int(self._counts.sum()) // self.cache.halves

    @property
    def maps_of_a_load(self) -> tuple[int, int]:
        """How many maps() has to choose a batch from, of the load that holds fewest and of that that holds most."""
        counts = self._counts.sort().values
        fewest, most = counts[: self._pieces_per_load].sum(), counts[-self._pieces_per_load :].sum()
        return int(fewest) // self.cache.halves, int(most) // self.cache.halves

    def vectors(self, batch: int, start: int = 0) -> Iterator[torch.Tensor]:
        """Random vectors, fp32 [batch, d], from the start-th batch on."""
        for load, chosen in self._batches(batch, self.positions, start):
            scale = None if load.scale is None else load.scale.flatten()[chosen]
            yield restored(load.vectors.flatten(0, 1)[chosen], scale)

    def maps(self, batch: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]]:
        """Random maps of the conditional half, fp32 [batch, positions, d], the same of the unconditional half at the
        same call if the cache has it, and their images [batch], from the start-th batch on."""
        halves = self.cache.halves
        for load, chosen in self._batches(batch, Fraction(1, halves), start):
            first, *others = (
                restored(
                    load.vectors[half::halves][chosen], None if load.scale is None else load.scale[half::halves][chosen]
                )
                for half in range(halves)
            )
            yield first, others[0] if others else None, load.images[::halves][chosen]

    def _batches(self, batch: int, parts: int | Fraction, start: int) -> Iterator[tuple[Load, torch.Tensor]]:
        """Loads and which of their maps * parts make up a batch; what does not fill one is left out of the epoch."""
        schedule = self._schedule()
        epoch, number, pieces = next(schedule)
        while start >= (batches := self._whole_batches(pieces, batch, parts)):
            start -= batches
            epoch, number, pieces = next(schedule)
        stop = threading.Event()
        upcoming = self._reader.submit(self._read, pieces, stop)
        try:
            while True:
                load = upcoming.result()
                order = torch.randperm(int(len(load.images) * parts), generator=_generator(self.seed, epoch, number))
                batches = self._whole_batches(pieces, batch, parts)
                epoch, number, pieces = next(schedule)
                upcoming = self._reader.submit(self._read, pieces, stop)
                for chosen in order.split(batch)[start:batches]:
                    yield load, chosen
                start = 0
        finally:  # without waiting: Ctrl-C is lost while a generator that nobody needs any more is closed
            stop.set()
            upcoming.cancel()

    def _schedule(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """(epoch, load, its pieces) without end."""
        for epoch in itertools.count():
            order = torch.randperm(len(self._pieces), generator=_generator(self.seed, epoch))
            for number, pieces in enumerate(order.split(self._pieces_per_load)):
                yield epoch, number, pieces

    def _whole_batches(self, pieces: torch.Tensor, batch: int, parts: int | Fraction) -> int:
        """How many a load gives. One that is smaller than a batch is one, but what is left over at the end is none."""
        is_rest = len(pieces) < self._pieces_per_load < len(self._pieces)
        return max(0 if is_rest else 1, int(int(self._counts[pieces].sum()) * parts // batch))

    def _read(self, pieces: torch.Tensor, stop: threading.Event) -> Load:
        if self._all is not None:
            return self._all
        maps = int(self._counts[pieces].sum())
        vectors, scale = empty((maps, self.positions, self.width), self.cache.settings.storage)
        images = torch.empty(maps, dtype=torch.int64)
        end = 0
        for piece in pieces.sort().values.tolist():
            if stop.is_set():
                raise CancelledError
            shard, first, last = self._pieces[piece]
            part, its_scale = self.cache.read(self.hookpoint, shard, first, last)
            low, high = (part if its_scale is None else its_scale).aminmax()  # NaN if anything is
            if not (torch.isfinite(low) and torch.isfinite(high)):
                raise CacheError(f"Shard {shard} of {self.cache.folder} holds NaN or infinity. Collect it again.")
            owners = self.cache.settings.shard_images(shard)[0] + torch.arange(first, last) // self.maps_per_image
            chosen = self.images[owners].nonzero()[:, 0]
            begin, end = end, end + len(chosen)
            torch.index_select(part, 0, chosen, out=vectors[begin:end])
            images[begin:end] = owners[chosen]
            if scale is not None and its_scale is not None:
                scale[begin:end] = its_scale[chosen]
        load = Load(vectors, scale, images)
        if len(pieces) == len(self._pieces):
            self._all = load
        return load


def _generator(*numbers: int) -> torch.Generator:
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
