"""How much is measured, and what one measurement is."""

from dataclasses import dataclass
from textwrap import shorten

from tqdm import tqdm

from shapecanvas.concepts import OBJECTS
from shapecanvas.world import World

from .methods import Method, Setting, all_methods
from .pictures import SEED_STEP, Judged, draw, scores, wanted
from .records import Records
from .saes import Lengths, Workplace
from .white_box import Attack

SEARCH_FROM, TEST_FROM = 2_000_000, 0
"""First seeds of the pictures by which settings are chosen, and of those that are reported."""
USUAL_SEARCH = 21
"""Methods that try more settings than this are in the table of what the search costs alone."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    collected: int
    """SAEs learn from so many pictures of every pair."""
    seeds: int
    """SAEs are trained with so many seeds, and each is measured on pictures of its own."""
    lengths: Lengths
    concepts: int
    """So many of each group, from the first on."""
    search: tuple[int, int]
    """For a setting: pictures of every pair that asks for the concept, and pictures of other pairs."""
    test: tuple[int, int]
    """For what is reported, likewise."""
    searched: int
    """So many objects tell what the search for settings costs."""
    most_settings: int
    """Tried there for one of them."""
    at_once: tuple[int, ...]
    """So many objects are erased together."""
    orders: int
    """The order given, and random ones, each with the next of the seeds."""
    attacked: int
    """So many objects are attacked."""
    prompts: int
    """For each of them."""
    attack: Attack
    resampled: int
    """So many objects are sampled with other settings."""
    pictures_each: tuple[int, int]
    """Of each of them with each setting: pictures of every pair that asks for it, and pictures of other pairs."""
    lora_steps: int
    """Of the LoRA with which they are."""


FULL = Size(
    collected=8,
    seeds=3,
    lengths=Lengths(unsupervised=1000, supervised=2000, epochs=30),
    concepts=len(OBJECTS),
    search=(3, 24),
    test=(4, 88),
    searched=4,
    most_settings=210,
    at_once=tuple(range(1, 10)),
    orders=4,
    attacked=12,
    prompts=24,
    attack=Attack(),
    resampled=4,
    pictures_each=(2, 24),
    lora_steps=300,
)
QUICK = Size(
    collected=4,
    seeds=1,
    lengths=Lengths(unsupervised=400, supervised=400, epochs=6),
    concepts=2,
    search=(1, 8),
    test=(2, 24),
    searched=1,
    most_settings=USUAL_SEARCH,
    at_once=(1, 2),
    orders=1,
    attacked=1,
    prompts=8,
    attack=Attack(looks=(50,)),
    resampled=1,
    pictures_each=(1, 8),
    lora_steps=100,
)


@dataclass
class Bench:
    """Where everything is that a measurement needs."""

    world: World
    place: Workplace
    records: Records
    size: Size

    def methods(self, group: str, seed: int, most_settings: int = USUAL_SEARCH) -> list[Method]:
        found = all_methods(self.world, self.place, group, seed)
        return [method for method in found if len(method.settings) <= most_settings]

    def measured(self, method: Method, seed: int, group: str, concepts: list[str], settings: list[Setting], test: bool):
        """Pictures of this erasure, by settings[i] for concepts[i]: those to be reported, or those to choose by."""
        asking, others = self.size.test if test else self.size.search
        first = (TEST_FROM if test else SEARCH_FROM) + SEED_STEP * seed
        family = method.name.split(",")[0]
        key = {"method": family, "seed": seed, "group": group, "concepts": concepts, "settings": settings}
        key |= {"asking": asking, "others": others, "first": first}
        if family in ("nothing", "negative prompt"):
            key.pop("settings")

        def sample() -> Judged:
            chosen = wanted(concepts, asking, others, first)
            return draw(self.world, chosen, **method.sampling(concepts, settings))

        return scores(self.records.get(key, sample), concepts)

    def chosen(self, method: Method, seed: int, group: str, concepts: list[str]) -> Setting:
        """The one setting for all of these with the best (UA + IRA) / 2, SAeUron's rule; the first of equals."""
        if len(method.settings) == 1:
            return method.settings[0]

        def merit(setting: Setting) -> float:
            found = self.measured(method, seed, group, concepts, [setting] * len(concepts), test=False)
            return found["UA"] + found["IRA"]

        names = shorten(", ".join(concepts), 40, placeholder=" ...")
        tried = tqdm(method.settings, desc=f"{method.name}: {names}", leave=False)
        return max(tried, key=merit)
