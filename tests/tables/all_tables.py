"""The tables by name; each takes the Bench and returns what was found, for JSON, and its Markdown."""

from collections.abc import Callable

from . import black_box, generality, one_to_one, white_box
from .bench import Bench
from .chosen import ChosenMethod
from .curves import curves
from .erasing import one_concept, several_concepts, shared_setting
from .markdown import one_concept_table, search_cost_table, several_concepts_table, shared_setting_table
from .saemnesia import saemnesia
from .saes import GROUPS, supervised, unsupervised

Table = Callable[[Bench], tuple[object, str]]
UNGUARDED = ("nothing", "negative prompt", "SAeUron, best of 21", "SAEmnesia, best of 7", "PER", "SAE Eraser")
"""Methods in the table of generality: at cfg 1 there is nothing for a guard to go by."""
COMPARED = (*UNGUARDED, "SAE Eraser and Concept Guard")
"""Methods in the tables of attacks, and of several objects at once."""


def one(group: str) -> Table:
    def table(bench: Bench):
        rows = one_concept(bench, group, GROUPS[group][: bench.size.concepts], bench.size.seeds)
        return rows, one_concept_table(rows)

    return table


def search_cost(bench: Bench):
    size = bench.size
    rows = one_concept(bench, "object", GROUPS["object"][: size.searched], 1, size.most_settings)
    return rows, search_cost_table(rows)


def several_objects(bench: Bench):
    rows = several_concepts(bench, "object", COMPARED)
    return rows, several_concepts_table(rows)


def several_objects_shared_setting(bench: Bench):
    rows = shared_setting(bench, "object", ("SAeUron, 1 setting", *COMPARED))
    return rows, shared_setting_table(rows)


def attacked_by_vectors(bench: Bench):
    size = bench.size

    def of_seed(seed: int) -> dict:
        methods = chosen_methods(bench, COMPARED, seed)
        concepts = GROUPS["object"][: size.attacked]
        return white_box.measure(bench.world, bench.records, methods, concepts, size.prompts, size.attack, seed)

    found = [of_seed(seed) for seed in range(size.seeds)]
    return found, white_box.markdown(found)


def attacked_by_words_and_pictures(bench: Bench):
    size = bench.size

    def of_seed(seed: int) -> dict:
        methods = chosen_methods(bench, COMPARED, seed)
        concepts = GROUPS["object"][: size.attacked]
        return black_box.measure(bench.world, bench.records, methods, concepts, size.prompts, seed=seed)

    found = [of_seed(seed) for seed in range(size.seeds)]
    return found, black_box.markdown(found)


def other_settings(bench: Bench):
    size = bench.size
    amounts = {"pictures": size.pictures_each, "lora_steps": size.lora_steps}

    def of_seed(seed: int) -> dict:
        methods = chosen_methods(bench, UNGUARDED, seed)
        concepts = GROUPS["object"][: size.resampled]
        return generality.measure(bench.world, bench.place, bench.records, methods, concepts, **amounts, seed=seed)

    found = [of_seed(seed) for seed in range(size.seeds)]
    return found, generality.markdown(found)


def one_latent_each(bench: Bench):
    makers = (unsupervised, saemnesia, supervised)

    def of_seed(seed: int) -> dict:
        return one_to_one.measure(bench.place, "object", [make(bench.place, "object", seed) for make in makers])

    found = [of_seed(seed) for seed in range(bench.size.seeds)]
    return found, one_to_one.markdown(found)


TABLES: dict[str, Table] = {
    "one_object": one("object"),
    "one_style": one("style"),
    "search_cost": search_cost,
    "several_objects": several_objects,
    "several_objects_shared_setting": several_objects_shared_setting,
    "white_box": attacked_by_vectors,
    "black_box": attacked_by_words_and_pictures,
    "generality": other_settings,
    "one_to_one": one_latent_each,
}
PICTURES = {"several_objects": curves}
"""How what was found for some tables is drawn, as a matplotlib figure."""


def chosen_methods(bench: Bench, names: tuple[str, ...], seed: int) -> list[ChosenMethod]:
    """Every concept with the setting that was chosen for it alone; seed: that of the SAEs."""

    def fixed(method) -> ChosenMethod:
        def sampling(concepts: list[str]) -> dict:
            settings = [bench.chosen(method, seed, "object", [concept]) for concept in concepts]
            return method.sampling(concepts, settings)

        return ChosenMethod(method.name, sampling)

    return [fixed(method) for method in bench.methods("object", seed) if method.name in names]
