"""Tables 1 to 3: one concept erased, several erased at once, and what the search for settings costs."""

import random
from dataclasses import dataclass
from statistics import mean, pstdev

from tqdm import tqdm

from shapecanvas.world import World

from .methods import Method, Setting, all_methods
from .pictures import Judged, draw, scores, wanted
from .records import Records
from .saes import GROUPS, Workplace

SEARCH_FROM, TEST_FROM = 2_000_000, 0
"""First seeds of the pictures by which settings are chosen, and of those that are reported."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    seeds: int
    """SAEs are trained with so many seeds, and each is measured on pictures of its own."""
    concepts: int
    """So many of each group, from the first on."""
    search: tuple[int, int]
    """For a setting: pictures of every pair that asks for the concept, and pictures of other pairs."""
    test: tuple[int, int]
    """For what is reported, likewise."""
    at_once: tuple[int, ...]
    """So many objects are erased together."""
    orders: int
    """The order given, and random ones."""
    methods: tuple[str, ...] | None = None
    """None is all."""


FULL = Size(seeds=3, concepts=12, search=(3, 24), test=(4, 88), at_once=tuple(range(1, 10)), orders=4)
QUICK = Size(
    seeds=1,
    concepts=3,
    search=(2, 16),
    test=(4, 48),
    at_once=(1, 3),
    orders=1,
    methods=(
        "nothing",
        "negative prompt",
        "SAeUron, 1 setting",
        "SAeUron, best of 21",
        "SAEmnesia, 1 setting",
        "SAEmnesia, best of 7",
        "PER",
        "SAE Eraser",
    ),
)


@dataclass
class Bench:
    """Where everything is that a measurement needs."""

    world: World
    place: Workplace
    records: Records
    size: Size

    def methods(self, group: str, seed: int) -> list[Method]:
        found = all_methods(self.world, self.place, group, seed)
        return [method for method in found if self.size.methods is None or method.name in self.size.methods]

    def measured(self, method: Method, seed: int, group: str, concepts: list[str], settings: list[Setting], test: bool):
        """Pictures of this erasure, by settings[i] for concepts[i]: those to be reported, or those to choose by."""
        asking, others = self.size.test if test else self.size.search
        first = (TEST_FROM if test else SEARCH_FROM) + 10_000 * seed
        family = method.name.split(",")[0]
        key = {"method": family, "seed": seed, "group": group, "concepts": concepts, "settings": settings}
        key |= {"asking": asking, "others": others, "first": first}
        if family in ("nothing", "negative prompt"):
            key.pop("settings")

        def sample() -> Judged:
            chosen = wanted(concepts, asking, others, first)
            return draw(self.world, chosen, **method.sampling(concepts, settings))

        return scores(self.records.get(key, sample), concepts)

    def chosen(self, method: Method, seed: int, group: str, concept: str) -> Setting:
        """The setting with the best (UA + IRA) / 2, SAeUron's rule; the first of equals."""
        if len(method.settings) == 1:
            return method.settings[0]

        def merit(setting: Setting) -> float:
            found = self.measured(method, seed, group, [concept], [setting], test=False)
            return found["UA"] + found["IRA"]

        tried = tqdm(method.settings, desc=f"{method.name}: {concept}", leave=False)
        return max(tried, key=merit)


def one_concept(bench: Bench, group: str) -> list[dict]:
    """For every method UA, IRA, CRA and their mean: means over concepts, then mean and spread over seeds."""
    concepts = GROUPS[group][: bench.size.concepts]
    rows = []
    for method in bench.methods(group, 0):
        by_seed, settings = [], {}
        for seed in range(bench.size.seeds):
            (own,) = [m for m in bench.methods(group, seed) if m.name == method.name]
            found = []
            for concept in tqdm(concepts, desc=f"{method.name}, seed {seed}", leave=False):
                setting = bench.chosen(own, seed, group, concept)
                settings[f"{concept} {seed}"] = setting
                found.append(bench.measured(own, seed, group, [concept], [setting], test=True))
            by_seed.append({name: mean(scores[name] for scores in found) for name in found[0]})
        for scores_ in by_seed:
            scores_["mean"] = mean(scores_[name] for name in ("UA", "IRA", "CRA"))
        row = {"method": method.name, "group": group, "settings tried": len(method.settings), "chosen": settings}
        for name in by_seed[0]:
            values = [scores_[name] for scores_ in by_seed]
            row |= {name: mean(values), f"{name} spread": pstdev(values)}
        rows.append(row)
    return rows


def several_concepts(bench: Bench, group: str) -> list[dict]:
    """Several concepts at once, in the order given and in random ones: UA, and what is kept of all others.

    Every concept has the setting that was chosen for it alone.
    """
    names, rows = list(GROUPS[group]), []
    for method in bench.methods(group, 0):
        for order in range(bench.size.orders):
            ordered = names if order == 0 else random.Random(order).sample(names, len(names))
            for count in tqdm(bench.size.at_once, desc=f"{method.name}, order {order}", leave=False):
                concepts = ordered[:count]
                settings = [bench.chosen(method, 0, group, concept) for concept in concepts]
                found = bench.measured(method, 0, group, concepts, settings, test=True)
                kept = (found["IRA"] + found["CRA"]) / 2
                rows.append({"method": method.name, "order": order, "concepts": count, **found, "kept": kept})
    return rows
