"""The pack's own nodes around a watched run."""

from sae_eraser.nodes.files.load_sae import LoadSAE
from sae_eraser.nodes.look.watch_concepts import WatchConcepts
from sae_eraser.nodes.look.watching import Watch
from with_comfyui.random_files import MID

OBJECTS_SAE, STYLES_SAE = "sae_shapecanvas_objects.safetensors", "sae_shapecanvas_styles.safetensors"
DRAWN_SAE = "sae_shapecanvas_drawn.safetensors"


def watched(model, sae: str = MID) -> tuple[object, Watch]:
    """The model and the watch as the node Watch Concepts hands them on."""
    return WatchConcepts.execute(model, LoadSAE.execute(sae).result[0]).result
