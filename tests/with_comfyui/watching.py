"""The pack's own nodes around a watched run."""

from dataclasses import replace

from sae_eraser.nodes.files.load_sae import LoadSAE
from sae_eraser.nodes.files.sae_files import LoadedSAE
from sae_eraser.nodes.look.watch_concepts import WatchConcepts
from sae_eraser.nodes.look.watching import Watch
from sae_eraser.sae_ops.concepts import term_ranges
from with_comfyui.random_files import MID

OBJECTS_SAE, STYLES_SAE = "sae_shapecanvas_objects.safetensors", "sae_shapecanvas_styles.safetensors"
DRAWN_SAE = "sae_shapecanvas_drawn.safetensors"


def watched(model, sae: str = MID) -> tuple[object, Watch]:
    """The model and the watch as the node Watch Concepts hands them on."""
    return WatchConcepts.execute(model, LoadSAE.execute(sae).result[0]).result


def without_statistics(sae: LoadedSAE, name: str) -> LoadedSAE:
    """The same, as if pictures with this concept were like those without it."""
    statistics, concepts = sae.statistics, sae.header.concepts
    terms = list(term_ranges(concepts)[[concept.name for concept in concepts].index(name)])
    with_concept = statistics.with_concept.clone()
    with_concept[:, terms] = statistics.background[:, terms]
    return replace(sae, statistics=replace(statistics, with_concept=with_concept))
