"""What several templates have in common."""

from .checkpoints import ADDRESSES, LOADER, SHAPECANVAS
from .graph import Graph, Node

OBJECTS, STYLES = "sae_shapecanvas_objects.safetensors", "sae_shapecanvas_styles.safetensors"
DRAWN = "sae_shapecanvas_drawn.safetensors"
SMALL_WORLD = (
    "As it is, this template needs ShapeCanvas, the small model of the pack's tests, which a git clone has (**make "
    "comfy**). With your own checkpoint choose an SAE that was made for it, your picture size and your prompts."
)
SAMPLING = {"steps": 25, "cfg": 3.0, "scheduler": "normal"}
UPPER, LOWER = 60, 440
"""Where the upper and the lower row begin."""
NARROWEST = 230
"""Nodes 2.0 draws a node that is saved narrower than 225 as wide as that, over its neighbour."""


def load(graph: Graph, name: str = SHAPECANVAS) -> Node:
    checkpoint = graph.add(LOADER, (0, UPPER), (380, 120), ckpt_name=name)
    if name in ADDRESSES:
        model = {"name": name, "url": ADDRESSES[name], "directory": "checkpoints"}
        checkpoint.saved["properties"]["models"] = [model]
    return checkpoint


def load_sae(graph: Graph, name: str) -> Node:
    return graph.add("SAEEraser_LoadSAE", (0, 240), (380, 70), sae_name=name)


def prompt(graph: Graph, clip: Node, place: tuple[int, int], text: str, title: str = "Prompt") -> tuple:
    height = 120 if text else 100
    return graph.add("CLIPTextEncode", place, (360, height), title, clip=clip["CLIP"], text=text)["CONDITIONING"]


def ask(graph: Graph, checkpoint: Node, place: tuple[int, int], text: str, side: int = 64) -> dict:
    """Prompt, negative prompt and size, one below the other: what `draw` takes."""
    x, y = place
    latent = graph.add("EmptyLatentImage", (x, y + 320), (360, 130), width=side, height=side, batch_size=4)
    return {
        "positive": prompt(graph, checkpoint, (x, y), text),
        "negative": prompt(graph, checkpoint, (x, y + 170), "", "Negative prompt"),
        "latent_image": latent["LATENT"],
    }


def draw(graph: Graph, checkpoint: Node, model: Node, place: tuple[int, int], title: str, **sampling) -> tuple:
    """A sampler and what it has drawn, saved; returns its latents and its pictures."""
    x, y = place
    sampling = {"seed": 7, **SAMPLING, **sampling}
    latent = graph.add("KSampler", (x, y), (270, 290), title, model=model["MODEL"], **sampling)["LATENT"]
    images = decode(graph, checkpoint, latent, (x + 290, y))
    save(graph, images, (x + 540, y), title)
    return latent, images


def decode(graph: Graph, checkpoint: Node, latent: tuple, place: tuple[int, int]) -> tuple:
    return graph.add("VAEDecode", place, (NARROWEST, 60), samples=latent, vae=checkpoint["VAE"])["IMAGE"]


def save(graph: Graph, images: tuple, place: tuple[int, int], title: str) -> None:
    """The thumbnail shows the pictures of the first two of these."""
    graph.add("SaveImage", place, (290, 300), title, images=images, filename_prefix=title.lower())


def compare(graph: Graph, checkpoint: Node, erased: Node, x: int, **sampling) -> None:
    """The same seeds with the original model and with the erased one, which is above, beside its node."""
    draw(graph, checkpoint, checkpoint, (x, LOWER), "Original", **sampling)
    draw(graph, checkpoint, erased, (x, UPPER), "Erased", **sampling)
