"""The methods that are compared: how each has the world sample, and the settings that it lets one choose from."""

from collections.abc import Callable
from dataclasses import dataclass

from sae_eraser.nodes.erase.erasing import erase
from sae_eraser.nodes.files.sae_files import LoadedSAE
from sae_eraser.sae_ops.concepts import find_concept
from sae_eraser.sae_ops.erasure import Erasure
from shapecanvas.world import World

from .guard import guarded
from .saemnesia import saemnesia
from .saes import Workplace, drawn, saeuron, scaled, supervised, unsupervised

MULTIPLIERS = (-1, -5, -10, -15, -20, -25, -30)
STRENGTHS = (0.5, 0.7, 0.85, 1.0, 1.33, 2.0)
Setting = tuple
Sampling = dict
"""What sampling is to be given besides the world's own settings: the model, the negative prompt, and a
guard, if one looks at the pictures."""


@dataclass(frozen=True)
class Method:
    """One way of erasing."""

    name: str
    settings: tuple[Setting, ...]
    """All that it tries for a concept, the best of which is kept; one if nothing is to be chosen."""
    sampling: Callable[[list[str], list[Setting]], Sampling]
    """(concepts to erase, the setting of each) -> how to sample."""


def all_methods(world: World, place: Workplace, group: str, seed: int) -> list[Method]:
    """group: what kind of concept is erased; seed: that of the SAEs."""

    def erased(sae: LoadedSAE, concepts: list[str], mode: str, strengths: list[float]) -> Sampling:
        chosen = [find_concept(sae.header.concepts, f"{group}: {name}") for name in concepts]
        erasures = zip(chosen, strengths, strict=True)
        return {"model": erase(world.model, sae, tuple(Erasure(index, s, mode) for index, s in erasures))}

    def by_negative_prompt(concepts, settings):
        return {"negative_prompt": ", ".join(concepts)}

    def by_saeuron(concepts, settings):
        latents = {concept: count for concept, (count, _) in zip(concepts, settings, strict=True)}
        multipliers = {concept: multiplier for concept, (_, multiplier) in zip(concepts, settings, strict=True)}
        sae = scaled(saeuron(place, unsupervised(place, group, seed), group, latents), multipliers)
        return erased(sae, concepts, "scale", [1.0] * len(concepts))

    def by_saemnesia(concepts, settings):
        multipliers = {concept: multiplier for concept, (multiplier,) in zip(concepts, settings, strict=True)}
        return erased(scaled(saemnesia(place, group, seed), multipliers), concepts, "scale", [1.0] * len(concepts))

    def by_per(concepts, settings):
        return erased(saemnesia(place, group, seed), concepts, "replace", [1.0] * len(concepts))

    def by_ours(concepts, settings):
        return erased(supervised(place, group, seed), concepts, "turn", [strength for (strength,) in settings])

    def by_ours_guarded(concepts, settings):
        model, guard = guarded(by_ours(concepts, settings)["model"], drawn(place, group, seed), concepts)
        return {"model": model, "guard": guard}

    few = tuple((latents, multiplier) for latents in (1, 2, 3) for multiplier in MULTIPLIERS)
    many = tuple((latents, multiplier) for latents in range(1, 31) for multiplier in MULTIPLIERS)
    return [
        Method("nothing", ((),), lambda concepts, settings: {}),
        Method("negative prompt", ((),), by_negative_prompt),
        Method("SAeUron, 1 setting", ((1, -1),), by_saeuron),
        Method("SAeUron, best of 21", few, by_saeuron),
        Method("SAeUron, best of 210", many, by_saeuron),
        Method("SAEmnesia, 1 setting", ((-1,),), by_saemnesia),
        Method("SAEmnesia, best of 7", tuple((multiplier,) for multiplier in MULTIPLIERS), by_saemnesia),
        Method("PER", ((),), by_per),
        Method("SAE Eraser", ((1.0,),), by_ours),
        Method("SAE Eraser and Concept Guard", ((1.0,),), by_ours_guarded),
        Method("SAE Eraser, best of 6", tuple((strength,) for strength in STRENGTHS), by_ours),
    ]
