"""The tables of one concept erased, of several erased at once, and of what the search for settings costs."""

import random
from collections.abc import Iterator, Sequence
from statistics import mean, pstdev

from tqdm import tqdm

from .bench import USUAL_SEARCH, Bench
from .methods import Method
from .saes import GROUPS


def one_concept(
    bench: Bench, group: str, concepts: Sequence[str], seeds: int, most_settings: int = USUAL_SEARCH
) -> list[dict]:
    """For every method UA, IRA, CRA and their mean: means over concepts, then mean and spread over seeds."""
    rows = []
    for method in bench.methods(group, 0, most_settings):
        by_seed, settings = [], {}
        for seed in range(seeds):
            (own,) = [m for m in bench.methods(group, seed, most_settings) if m.name == method.name]
            found = []
            for concept in tqdm(concepts, desc=f"{method.name}, seed {seed}", leave=False):
                setting = bench.chosen(own, seed, group, [concept])
                settings[f"{concept} {seed}"] = setting
                found.append(bench.measured(own, seed, group, [concept], [setting], test=True))
            by_seed.append({name: mean(scores[name] for scores in found) for name in found[0]})
        for scores_ in by_seed:
            scores_["mean"] = mean(scores_[name] for name in ("UA", "IRA", "CRA"))
        row = {"method": method.name, "group": group, "settings tried": len(method.settings)}
        row |= {"seeds": len(by_seed), "chosen": settings}
        for name in by_seed[0]:
            values = [scores_[name] for scores_ in by_seed]
            row |= {name: mean(values), f"{name} spread": pstdev(values)}
        rows.append(row)
    return rows


def several_concepts(bench: Bench, group: str, methods: Sequence[str]) -> list[dict]:
    """Several concepts at once, in the order given and in random ones: UA, and what is kept of all others.

    By these methods; every concept has the setting that was chosen for it alone. Each order has the next of the seeds.
    """
    rows = []
    for order, ordered, seed in _orders(bench, group):
        for method in _named(bench, group, seed, methods):
            for count in tqdm(bench.size.at_once, desc=f"{method.name}, order {order}", leave=False):
                concepts = ordered[:count]
                settings = [bench.chosen(method, seed, group, [concept]) for concept in concepts]
                found = _with_kept(bench.measured(method, seed, group, concepts, settings, test=True))
                rows.append({"method": method.name, "order": order, "seed": seed, "concepts": count, **found})
    return rows


def shared_setting(bench: Bench, group: str, methods: Sequence[str]) -> list[dict]:
    """The most concepts that several_concepts erases at once, by one setting: the best for all of them together, and
    that for the first alone, as published sequential runs take it."""
    rows = []
    for order, ordered, seed in _orders(bench, group):
        concepts = ordered[: max(bench.size.at_once)]
        for method in _named(bench, group, seed, methods):
            row = {"method": method.name, "order": order, "seed": seed, "concepts": len(concepts)}
            row["settings tried"] = len(method.settings)
            for number in (len(concepts), 1) if len(method.settings) > 1 else (len(concepts),):
                setting = bench.chosen(method, seed, group, concepts[:number])
                found = bench.measured(method, seed, group, concepts, [setting] * len(concepts), test=True)
                rows.append({**row, "chosen for": number, "chosen": setting, **_with_kept(found)})
    return rows


def _orders(bench: Bench, group: str) -> Iterator[tuple[int, list[str], int]]:
    """Each order's number, the group's concepts in it, and the seed of its SAEs."""
    names = list(GROUPS[group])
    for order in range(bench.size.orders):
        ordered = names if order == 0 else random.Random(order).sample(names, len(names))
        yield order, ordered, order % bench.size.seeds


def _named(bench: Bench, group: str, seed: int, names: Sequence[str]) -> list[Method]:
    return [method for method in bench.methods(group, seed) if method.name in names]


def _with_kept(found: dict) -> dict:
    return {**found, "kept": (found["IRA"] + found["CRA"]) / 2}
