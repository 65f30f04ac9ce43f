"""Which images of a cache are for training, and which for validation."""

import hashlib
from collections import defaultdict

import torch

from ..sae_ops.text_hookpoints import is_text_hookpoint
from .cache.reader import Cache

ROUNDS_OF_REPAIR = 10
"""At most; held_out ends as soon as a round changes nothing."""


def holds_text(cache: Cache) -> bool:
    """Whether its activations are a text encoder's, of which every seed of a prompt gives the same."""
    return any(map(is_text_hookpoint, cache.settings.hookpoints))


def held_out(cache: Cache) -> torch.Tensor:
    """bool [images]: one image in ten is for validation; which ones depends on prompts and seeds alone.

    A label that had none, or all, has one such image, or all but one, and so have the images without it. Of a text
    encoder all seeds of a prompt go together.
    """
    images, is_text = cache.settings.images, holds_text(cache)
    texts = (image.prompt if is_text else f"{image.prompt}|{image.seed}" for image in images)
    places = torch.tensor([_fraction(text) for text in texts], dtype=torch.float64)
    held = places < 0.1
    showing = defaultdict(list)
    for index, image in enumerate(images):
        for label in [(group, name) for group, names in image.labels.items() for name in names]:
            showing[label].append(index)
    with_label = [torch.tensor(own) for own in showing.values()]
    for own in with_label:
        _divide(held, places, own)
    for again in range(1, ROUNDS_OF_REPAIR):  # one repair may undo another
        before = held.clone()
        for own in with_label:
            others = torch.ones_like(held).index_fill_(0, own, False).nonzero()[:, 0]
            for side in (own, others):
                if len(side) and places[side].amin() < places[side].amax():
                    _divide(held, places, side, again)
        if torch.equal(held, before):
            break
    return held


def _divide(held: torch.Tensor, places: torch.Tensor, side: torch.Tensor, again: int = 0) -> None:
    """Holds one of these images out if none is, and gives one back if all are. side: their indices.

    again: how often this was done before; each time it is another one.
    """
    if len(side) > 1 and held[side].any() == held[side].all():
        own, is_missing = places[side].unique(), not held[side].any()
        nth = again % len(own)
        held[places == own[nth if is_missing else -1 - nth]] = is_missing


def readable(cache: Cache) -> torch.Tensor:
    """bool [images]: those in shards that can be read."""
    mask = torch.zeros(len(cache.settings.images), dtype=torch.bool)
    mask[cache.images] = True
    return mask


def training_and_validation(cache: Cache) -> tuple[torch.Tensor, torch.Tensor]:
    """bool [images] each: the readable images to train on, and those that are held out."""
    held, whole = held_out(cache), readable(cache)
    return whole & ~held, whole & held


def _fraction(text: str) -> float:
    """A number in 0..1 that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
