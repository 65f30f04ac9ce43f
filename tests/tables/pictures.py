"""Pictures of a measurement: what was asked for, and what the classifier sees in what was drawn."""

import random
from dataclasses import dataclass, fields

import torch

from shapecanvas import world as small_world
from shapecanvas.classifier import Classifier
from shapecanvas.concepts import OBJECTS, STYLES, pair_prompt
from shapecanvas.world import World, decode, sample_latents

from .guard import Guard

PAIRS = tuple((o, s) for o in range(len(OBJECTS)) for s in range(len(STYLES)))
SAMPLING = {**small_world.SAMPLING, "cfg": 9.0}
"""The papers' guidance, which forgives less than the small world's usual 3; a quarter of their steps."""
SEED_STEP = 10_000
"""Between the first seeds of the pictures by which SAEs of one seed and of the next are measured."""
BATCH = 96
NOTHING = -1
CONFIDENT = 0.5
"""A picture in which no object has this probability is broken."""


@dataclass(frozen=True)
class Wanted:
    """Pictures to be drawn: (object, style) of each, indices into OBJECTS and STYLES, and its seed."""

    pairs: tuple[tuple[int, int], ...]
    seeds: tuple[int, ...]

    def prompts(self) -> list[str]:
        return [pair_prompt(OBJECTS[o], STYLES[s]) for o, s in self.pairs]


@dataclass(frozen=True)
class Judged:
    """The same as drawn; each [pictures, ...]."""

    asked: torch.Tensor
    """int [pictures, 2]: object and style."""
    seen: torch.Tensor
    """The classifier's verdicts, likewise; NOTHING in pictures that a guard withholds."""
    confidence: torch.Tensor
    """Its probability of the object that it sees."""
    features: torch.Tensor
    """fp16 [pictures, 128]."""

    def tensors(self) -> dict[str, torch.Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def wanted(concepts: list[str], asking_seeds: int, others: int, first_seed: int) -> Wanted:
    """Every pair that names one of the concepts with so many seeds each, and `others` pictures of other pairs.

    Seeds are counted from first_seed; the other pairs are a random order of all, always the same, again and again.
    """
    asking = [pair for pair in PAIRS if OBJECTS[pair[0]] in concepts or STYLES[pair[1]] in concepts]
    rest = [pair for pair in PAIRS if pair not in asking]
    random.Random(0).shuffle(rest)
    pairs = asking * asking_seeds + [rest[i % len(rest)] for i in range(others)]
    return Wanted(tuple(pairs), tuple(range(first_seed, first_seed + len(pairs))))


def draw(
    world: World, pictures: Wanted, model=None, prompts: list[str] | None = None, guard: Guard | None = None, **sampling
) -> Judged:
    """Samples and judges. prompts: other words for the same pairs."""
    words, settings = prompts or pictures.prompts(), {**SAMPLING, **sampling}
    found = []
    for start in range(0, len(words), BATCH):
        part = slice(start, start + BATCH)
        latents = sample_latents(world, words[part], list(pictures.seeds[part]), model, **settings)
        asked = torch.tensor(pictures.pairs[part])
        found.append(judged(world.classifier, decode(world, latents), asked, guard(latents) if guard else None))
    return all_judged(found)


def all_judged(parts: list[Judged]) -> Judged:
    """All of them as one."""
    return Judged(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Judged)))


@torch.inference_mode()
def judged(
    classifier: Classifier, images: torch.Tensor, asked: torch.Tensor, withheld: torch.Tensor | None = None
) -> Judged:
    """images [pictures, height, width, 3] in 0..1, asked int [pictures, 2]; withheld bool [pictures]: by a guard."""
    features = classifier.features(images.movedim(-1, 1).float())
    objects = classifier.object_head(features).softmax(dim=1)
    styles = classifier.style_head(features)
    confidence, seen = objects.max(dim=1)
    seen = torch.stack([seen, styles.argmax(dim=1)], dim=1)
    if withheld is not None:
        seen[withheld], confidence[withheld] = NOTHING, 0
    return Judged(asked, seen, confidence, features.half())


def scores(found: Judged, concepts: list[str]) -> dict[str, float]:
    """UA, IRA and CRA in per cent, every pair weighing the same, and the share of broken pictures that asked for one.

    UA: not seen where a concept was asked for. IRA: right among the others of the group, CRA: right in the other group,
    over all pictures (UnlearnCanvas; SAeUron, arXiv 2501.18052). With several concepts UA is their mean.
    """
    own = 0 if concepts[0] in OBJECTS else 1
    names = (OBJECTS, STYLES)[own]
    erased = torch.tensor([names.index(concept) for concept in concepts])
    asking = torch.isin(found.asked[:, own], erased)
    right = (found.asked == found.seen).double()
    share = len(concepts) / len(names)
    crossed = share * right[asking, 1 - own].mean() + (1 - share) * right[~asking, 1 - own].mean()
    return {
        "UA": 100 * (1 - right[asking, own].mean().item()),
        "IRA": 100 * right[~asking, own].mean().item(),
        "CRA": 100 * crossed.item(),
        "broken": 100 * (found.confidence[asking] < CONFIDENT).double().mean().item(),
    }
