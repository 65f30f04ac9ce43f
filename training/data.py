"""Labelled images of a cache, read one at a time: for scores, statistics and measurements."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from .cache.reader import Cache

FITTING_ROUNDS = 50


@dataclass(frozen=True)
class LabelledImages:
    """Some images' activations at one hookpoint, and the concepts that they show."""

    cache: Cache
    hookpoint: str
    indices: list[int]
    """Into the cache's images."""
    labels: torch.Tensor
    """bool [images, concepts]."""
    branch: str = "cond"
    """The half of guidance to read."""
    weights: torch.Tensor | None = None
    """fp32 [images]: how much each counts, 1 on average; None: all the same."""
    on_image: Callable[[int, int], None] | None = None
    """Called before an image is read, with which one it is, counted from 1, and how many there are."""

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Each image's maps of the branch, fp32 [maps, positions, d], and labels [concepts]."""
        half = int(self.branch == "uncond")
        for place, (index, labels) in enumerate(zip(self.indices, self.labels, strict=True)):
            if self.on_image:
                self.on_image(place + 1, len(self))
            yield self.cache.read_image(self.hookpoint, index)[half :: self.cache.halves], labels

    def levels(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The noise levels of the cache, ascending, and for each map of an image the place of its own."""
        first, *_ = self.cache.shards
        return self.cache.sigmas(first)[0][:: self.cache.halves].unique(return_inverse=True)


def choose_images(
    cache: Cache, hookpoint: str, among: torch.Tensor, concepts: list, vectors: int, branch: str = "cond"
) -> LabelledImages:
    """Images out of `among` (bool [images]): all of them, or about as many as hold `vectors` activation vectors.

    In the second case every concept, and those that show none, have as many as there can be of an equal share, and at
    least 8 where they occur. So many are also without each concept. The images' weights give every concept back the
    share that it has in `among`.
    """
    labels = cache.labels(concepts)
    maps, positions, _ = cache.shape(hookpoint)
    room = max(1, vectors // (maps * positions))
    candidates, weights = among.nonzero()[:, 0], None
    if len(candidates) > room:
        shuffled = candidates[torch.randperm(len(candidates), generator=torch.Generator().manual_seed(0))]
        kinds = [shuffled[column[shuffled]] for column in (*labels.T, ~labels.any(dim=1))]
        share = max(8, room // max(1, sum(len(kind) > 0 for kind in kinds)))
        chosen = {int(i) for kind in kinds for i in kind[:share]}
        for column in labels.T:  # few are without a concept that most of them show
            without = shuffled[~column[shuffled]].tolist()
            lacking = share - len(chosen.intersection(without))
            chosen.update([image for image in without if image not in chosen][: max(0, lacking)])
        others = [image for image in shuffled.tolist() if image not in chosen]
        chosen.update(others[: max(0, room - len(chosen))])
        candidates = torch.tensor(sorted(chosen))
        weights = _weights(labels[candidates], labels[among].double().mean(dim=0))
    return LabelledImages(cache, hookpoint, candidates.tolist(), labels[candidates], branch, weights)


def _weights(labels: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """fp32 [images], 1 on average, by which the concepts of labels, bool [images, concepts], have these shares.

    By iterative proportional fitting, which stays as close to equal weights as it can.
    """
    weights = torch.ones(len(labels), dtype=torch.float64)
    for _ in range(FITTING_ROUNDS):
        for shown, share in zip(labels.T, shares, strict=True):
            weights /= weights.mean()
            own = (weights * shown).mean()
            weights *= torch.where(shown, share / own, (1 - share) / (1 - own))
    return (weights / weights.mean()).float()
