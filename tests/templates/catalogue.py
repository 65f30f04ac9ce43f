"""All templates, by the names of their files. A new one is a function more here."""

from collections.abc import Callable

from .erasing import erase_in_one_region, erase_one_concept, erase_several_concepts
from .graph import Graph
from .looking import see_where_a_concept_is, withhold_pictures_of_a_concept
from .training import train_an_sae, train_for_sd15, train_for_sdxl

TEMPLATES: dict[str, Callable[[Graph], None]] = {
    "Erase one concept": erase_one_concept,
    "Erase several concepts": erase_several_concepts,
    "Erase in one region": erase_in_one_region,
    "See where a concept is": see_where_a_concept_is,
    "Withhold pictures of a concept": withhold_pictures_of_a_concept,
    "Train an SAE": train_an_sae,
    "Train and erase, SD1.5": train_for_sd15,
    "Train and erase, SDXL": train_for_sdxl,
}
