"""The tables by name; each takes the Bench and returns what was found, for JSON, and its Markdown."""

from collections.abc import Callable

from . import black_box, generality, one_to_one, white_box
from .bench import Bench
from .chosen import ChosenMethod
from .curves import curves
from .erasing import one_concept, several_concepts
from .markdown import one_concept_table, search_cost_table, several_concepts_table
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


def attacked_by_vectors(bench: Bench):
    size = bench.size
    found = white_box.measure(
        *(bench.world, bench.place, bench.records, chosen_methods(bench, COMPARED), GROUPS["object"][: size.attacked]),
        **{"prompts": size.prompts, "attack": size.attack, "sae_seed": 0},
    )
    return found, white_box.markdown(found)


def attacked_by_words_and_pictures(bench: Bench):
    size = bench.size
    found = black_box.measure(
        *(bench.world, bench.place, bench.records, chosen_methods(bench, COMPARED), GROUPS["object"][: size.attacked]),
        **{"pictures": size.prompts, "sae_seed": 0},
    )
    return found, black_box.markdown(found)


def other_settings(bench: Bench):
    size, methods = bench.size, chosen_methods(bench, UNGUARDED)
    found = generality.measure(
        *(bench.world, bench.place, bench.records, methods, GROUPS["object"][: size.resampled]),
        **{"pictures": size.pictures_each, "lora_steps": size.lora_steps, "sae_seed": 0},
    )
    return found, generality.markdown(found)


def one_latent_each(bench: Bench):
    makers = (unsupervised, saemnesia, supervised)
    found = one_to_one.measure(bench.place, "object", [make(bench.place, "object", 0) for make in makers])
    return found, one_to_one.markdown(found)


TABLES: dict[str, Table] = {
    "one_object": one("object"),
    "one_style": one("style"),
    "search_cost": search_cost,
    "several_objects": several_objects,
    "white_box": attacked_by_vectors,
    "black_box": attacked_by_words_and_pictures,
    "generality": other_settings,
    "one_to_one": one_latent_each,
}
PICTURES = {"several_objects": curves}
"""How what was found for some tables is drawn, as a matplotlib figure."""


def chosen_methods(bench: Bench, names: tuple[str, ...]) -> list[ChosenMethod]:
    """Every concept with the setting that was chosen for it alone."""

    def fixed(method) -> ChosenMethod:
        def sampling(concepts: list[str]) -> dict:
            settings = [bench.chosen(method, 0, "object", concept) for concept in concepts]
            return method.sampling(concepts, settings)

        return ChosenMethod(method.name, sampling)

    return [fixed(method) for method in bench.methods("object", 0) if method.name in names]
