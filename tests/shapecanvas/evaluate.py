"""How well the world draws, and how well concepts are erased in it; by the classifier, on seeds not trained on."""

from .concepts import OBJECTS, STYLES
from .world import World, judge


def evaluate_world(world: World, seeds_per_pair: int) -> dict[str, float]:
    """Shares of pictures with the right object and the right style, in per cent."""
    verdicts = judge(world, seeds_per_pair)
    return {group: 100 * verdicts.accuracy(group) for group in ("object", "style")}


def erased_model(world: World, sae_name: str, concept: str, **settings):
    """The world's model as Erase Concept hands it on, with the node's defaults unless `settings` say otherwise."""
    from sae_eraser.nodes.erase.erase_concept import EraseConcept

    defaults = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "mode": "turn", "branch": "both"}
    chosen = {"sae": sae_name, "concept": concept}
    return EraseConcept.execute(model=world.model, sae=chosen, **{**defaults, **settings}).result[0]


def evaluate_erasing(world: World, sae_name: str, concept: str, seeds_per_pair: int, **settings) -> dict[str, float]:
    """UA, IRA and CRA of one concept, in per cent, and the worst of the others; settings are those of Erase Concept."""
    verdicts = judge(world, seeds_per_pair, erased_model(world, sae_name, concept, **settings))
    group = "object" if concept in OBJECTS else "style"
    kept = {name: verdicts.accuracy("object", name) for name in OBJECTS}
    kept |= {name: verdicts.accuracy("style", name) for name in STYLES}
    worst = min((name for name in kept if name != concept), key=lambda name: kept[name])
    return {**verdicts.erased(group, concept), "worst": worst, "worst_kept": 100 * kept[worst]}
