"""The subgraph blueprints, by the names of their files. Each of these writes its graph and returns its description."""

from collections.abc import Callable

from .subgraph import Subgraph

SOCKETS = ("model", "clip", "vae", "sae")
WIDGETS = ("prompt", "negative_prompt", "concepts", "width", "height", "steps", "cfg", "seed")


def image_without_a_concept(graph: Subgraph) -> str:
    taken = {name: graph.take(name) for name in (*SOCKETS, *WIDGETS)}
    graph.give("IMAGE", draw(graph, erase(graph, taken), 0, taken, ask(graph, taken)))
    return "Draws a prompt without the concepts that are named, with an SAE made for the model."


def original_and_erased(graph: Subgraph) -> str:
    taken = {name: graph.take(name) for name in (*SOCKETS, *WIDGETS)}
    asked = ask(graph, taken)
    graph.give("original", draw(graph, taken["model"], 0, taken, asked))
    graph.give("erased", draw(graph, erase(graph, taken), 340, taken, asked))
    return "Draws a prompt twice from the same seed: as the model does, and without the concepts that are named."


BLUEPRINTS: dict[str, Callable[[Subgraph], str]] = {
    "Image without a concept": image_without_a_concept,
    "Original and erased": original_and_erased,
}


def ask(graph: Subgraph, taken: dict) -> dict:
    """What both samplers are given besides the model."""
    prompts = [
        graph.add("CLIPTextEncode", (0, y), (320, 140), title, clip=taken["clip"], text=taken[name])["CONDITIONING"]
        for name, title, y in (("prompt", "Prompt", 0), ("negative_prompt", "Negative prompt", 190))
    ]
    size = {name: taken[name] for name in ("width", "height")}
    latent = graph.add("EmptyLatentImage", (0, 380), (320, 130), **size)["LATENT"]
    return {"positive": prompts[0], "negative": prompts[1], "latent_image": latent}


def erase(graph: Subgraph, taken: dict) -> tuple:
    inputs = {name: taken[name] for name in ("model", "sae", "concepts")}
    return graph.add("SAEEraser_EraseConcepts", (380, 340), (320, 320), **inputs)["MODEL"]


def draw(graph: Subgraph, model: tuple, y: int, taken: dict, asked: dict) -> tuple:
    sampling = {name: taken[name] for name in ("steps", "cfg", "seed")}
    latent = graph.add("KSampler", (760, y), (300, 290), model=model, **asked, **sampling)["LATENT"]
    return graph.add("VAEDecode", (1120, y), (200, 60), samples=latent, vae=taken["vae"])["IMAGE"]
