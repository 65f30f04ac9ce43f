"""What stands in every template. A new one is a function more in TEMPLATES."""

from collections.abc import Callable

from .graph import Graph, Node

CHECKPOINT = "shapecanvas.safetensors"
OBJECTS, STYLES = "sae_shapecanvas_objects.safetensors", "sae_shapecanvas_styles.safetensors"
SMALL_WORLD = "This template uses ShapeCanvas, the small model of the pack's tests (**make comfy**)."
UPPER, LOWER = 60, 440
"""Where the erased and the original row begin."""


def erase_one_concept(graph: Graph) -> None:
    checkpoint = load(graph)
    erased = graph.add(
        "SAEEraser_EraseConcept",
        (420, UPPER),
        (360, 300),
        model=checkpoint["MODEL"],
        sae=OBJECTS,
        sae__concept="star",
    )
    compare(graph, checkpoint, erased, 840)
    graph.note(
        (0, 380),
        (380, 300),
        "How it works",
        "## Erase one concept\n\n"
        "1. Choose an SAE made for your checkpoint (files in **models/sae**).\n"
        "2. Choose the concept.\n"
        "3. Run: the same seeds, with and without the concept.\n\n"
        "**strength** 0 changes nothing, 1 is the calibrated strength. Chain the node to erase several concepts.\n\n"
        + SMALL_WORLD,
    )


def erase_several_concepts(graph: Graph) -> None:
    checkpoint = load(graph)
    sae = graph.add("SAEEraser_LoadSAE", (0, 240), (380, 70), sae_name=OBJECTS)
    objects = graph.add(
        "SAEEraser_EraseConcepts",
        (420, UPPER),
        (360, 320),
        model=checkpoint["MODEL"],
        sae=sae["SAE"],
        concepts="star: 1.0, heart: 1.0",
    )
    style = graph.add(
        "SAEEraser_EraseConcept",
        (820, UPPER),
        (360, 300),
        model=objects["MODEL"],
        sae=STYLES,
        sae__concept="neon",
    )
    compare(graph, checkpoint, style, 1240)
    graph.note(
        (0, 380),
        (380, 340),
        "How it works",
        "## Erase several concepts\n\n"
        "**Erase Concepts** takes several concepts of one SAE, with their strengths, as text. **Erase Concept** takes "
        "one and can be chained: here the style, from another SAE.\n\n"
        "Erasures of one SAE are done in one go; their order does not matter.\n\n"
        "1. Choose SAEs made for your checkpoint (files in **models/sae**).\n"
        "2. Write or choose the concepts.\n"
        "3. Run: the same seeds, with and without them.\n\n" + SMALL_WORLD,
    )


def train_an_sae(graph: Graph) -> None:
    checkpoint = load(graph)
    objects, styles = ("circle", "square", "star", "heart"), ("plain", "neon")
    lines = [
        f'{{"prompt": "a {thing} in {style} style", "object": "{thing}", "style": "{style}"}}'
        for thing in objects
        for style in styles
    ]
    collected = graph.add(
        "SAEEraser_CollectActivations",
        (420, UPPER),
        (360, 590),
        model=checkpoint["MODEL"],
        clip=checkpoint["CLIP"],
        prompts="\n".join(lines),
        hookpoints="mid_block.attentions.0",
        **{"name": "first_cache", "seeds": 16, "steps": 12, "cfg": 3.0, "width": 64, "height": 64, "batch_size": 8},
    )
    trained = graph.add(
        "SAEEraser_TrainSAE",
        (420, UPPER + 645),
        (360, 460),
        cache=collected["cache"],
        **{"name": "first_sae", "latents": 512, "k": 16, "unsupervised_steps": 300, "supervised_steps": 300},
    )
    erased = graph.add(
        "SAEEraser_EraseConcepts",
        (820, UPPER),
        (360, 320),
        model=checkpoint["MODEL"],
        sae=trained["sae"],
        concepts="star: 1.0",
    )
    compare(graph, checkpoint, erased, 1240)
    graph.note(
        (0, 240),
        (380, 460),
        "How it works",
        "## Train an SAE\n\n"
        "1. **Collect Activations** samples labelled prompts and caches what passes through a block of your model. "
        "Every label becomes a concept.\n"
        "2. **Train SAE** makes a file in **models/sae** of it. Both go on where they were stopped.\n"
        "3. **Erase Concepts** uses it at once. Press R to find it in the lists of other nodes.\n\n"
        "Sizes here are for a first try. For an SAE of your own take a few hundred pictures with each concept, your "
        "model's picture size, a block such as **up_blocks.1.attentions.1**, and the default steps.\n\n" + SMALL_WORLD,
    )


TEMPLATES: dict[str, Callable[[Graph], None]] = {
    "Erase one concept": erase_one_concept,
    "Erase several concepts": erase_several_concepts,
    "Train an SAE": train_an_sae,
}


def load(graph: Graph) -> Node:
    return graph.add("CheckpointLoaderSimple", (0, UPPER), (380, 120), ckpt_name=CHECKPOINT)


def compare(graph: Graph, checkpoint: Node, erased: Node, x: int) -> None:
    """Samples the same seeds with the erased model and with the original, one above the other, from x on."""
    left = x - 420
    prompt = graph.add(
        *("CLIPTextEncode", (left, LOWER), (360, 120), "Prompt"),
        clip=checkpoint["CLIP"],
        text="a star in neon style",
    )
    negative = graph.add(
        *("CLIPTextEncode", (left, LOWER + 170), (360, 100), "Negative prompt"), clip=checkpoint["CLIP"], text=""
    )
    latent = graph.add("EmptyLatentImage", (left, LOWER + 320), (360, 130), width=64, height=64, batch_size=4)
    for title, model, y in (("Erased", erased, UPPER), ("Original", checkpoint, LOWER)):
        sampled = graph.add(
            *("KSampler", (x, y), (300, 290), title),
            model=model["MODEL"],
            positive=prompt["CONDITIONING"],
            negative=negative["CONDITIONING"],
            latent_image=latent["LATENT"],
            **{"seed": 7, "steps": 25, "cfg": 3.0, "scheduler": "normal"},
        )
        decoded = graph.add("VAEDecode", (x + 330, y), (170, 60), samples=sampled["LATENT"], vae=checkpoint["VAE"])
        graph.add(
            *("SaveImage", (x + 530, y), (300, 300), title),
            images=decoded["IMAGE"],
            filename_prefix=title.lower(),
        )
