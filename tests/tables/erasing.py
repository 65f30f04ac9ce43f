"""Tables 1 to 3: one concept erased, several erased at once, and what the search for settings costs."""

import random
from collections.abc import Sequence
from statistics import mean, pstdev

from tqdm import tqdm

from .bench import USUAL_SEARCH, Bench
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
                setting = bench.chosen(own, seed, group, concept)
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
    names, rows = list(GROUPS[group]), []
    for order in range(bench.size.orders):
        seed = order % bench.size.seeds
        for method in bench.methods(group, seed):
            if method.name not in methods:
                continue
            ordered = names if order == 0 else random.Random(order).sample(names, len(names))
            for count in tqdm(bench.size.at_once, desc=f"{method.name}, order {order}", leave=False):
                concepts = ordered[:count]
                settings = [bench.chosen(method, seed, group, concept) for concept in concepts]
                found = bench.measured(method, seed, group, concepts, settings, test=True)
                kept = (found["IRA"] + found["CRA"]) / 2
                row = {"method": method.name, "order": order, "seed": seed, "concepts": count}
                rows.append({**row, **found, "kept": kept})
    return rows
