"""Templates that make an SAE and erase with it."""

from .checkpoints import SD15, SDXL
from .graph import Graph, Node
from .parts import LOWER, UPPER, ask, compare, load

DRAWN = {
    "photo": "a photo of {}",
    "oil painting": "an oil painting of {}",
    "watercolor": "a watercolor of {}",
    "pencil drawing": "a pencil drawing of {}",
    "cartoon": "a cartoon of {}",
    "pixel art": "pixel art of {}",
}
THINGS = ("cat", "dog", "horse", "car", "bicycle", "chair", "cup", "umbrella")


def train_an_sae(graph: Graph) -> None:
    checkpoint = load(graph)
    objects, styles = ("circle", "square", "star", "heart"), ("plain", "neon")
    lines = [
        f'{{"prompt": "a {thing} in {style} style", "object": "{thing}", "style": "{style}"}}'
        for thing in objects
        for style in styles
    ]
    collecting = {"prompts": "\n".join(lines), "hookpoints": "mid_block.attentions.0", "name": "first_cache"}
    collecting |= {"seeds": 16, "steps": 12, "cfg": 3.0, "width": 64, "height": 64, "batch_size": 8}
    training = {"name": "first_sae", "latents": 512, "k": 16, "unsupervised_steps": 300, "supervised_steps": 300}
    erased = train(graph, checkpoint, collecting, training, "star")
    compare(graph, checkpoint, erased, 1240, **ask(graph, checkpoint, (0, 240), "a star in neon style"))
    graph.note(
        (0, 740),
        (380, 400),
        "How it works",
        "## Train an SAE\n\n"
        "1. **Collect Activations** samples labelled prompts and caches what passes through a block of your model. "
        "Every label becomes a concept.\n"
        "2. **Train SAE** makes a file in **models/sae** of it. Both go on where they were stopped.\n"
        "3. **Erase Concepts** uses it at once. Press R to find it in the lists of other nodes.\n\n"
        "Sizes here are for a first try with ShapeCanvas, the small model of the pack's tests, which a git clone has "
        "(**make comfy**). For your own checkpoint take its picture size, its cfg, 25 steps, your prompts, a few "
        "hundred pictures with each concept, and a block such as **up_blocks.1.attentions.1**; and in Train SAE what "
        "a new node has: latents 0, k 32, 1000 and 2000 steps.",
    )


def train_for_sd15(graph: Graph) -> None:
    train_for_everyday_things(graph, SD15, "SD1.5", 512, "up_blocks.1.attentions.1", batch_size=8)


def train_for_sdxl(graph: Graph) -> None:
    train_for_everyday_things(graph, SDXL, "SDXL", 1024, "up_blocks.0.attentions.1", batch_size=4, keep_positions=256)


def train_for_everyday_things(graph: Graph, model: str, family: str, side: int, hookpoint: str, **keep) -> None:
    """1,920 pictures, ten noise levels of each, 256 positions: 13 GB."""
    checkpoint = load(graph, model)
    name = family.lower().replace(".", "")
    lines = [
        f"{text.format(f'an {thing}' if thing[0] in 'aeiou' else f'a {thing}')},{thing},{style}"
        for thing in THINGS
        for style, text in DRAWN.items()
    ]
    collecting = {"prompts": "\n".join(["prompt,object,style", *lines]), "hookpoints": hookpoint}
    collecting |= {"name": f"{name}_things", "seeds": 40, "width": side, "height": side, "keep_steps": 10, **keep}
    erased = train(graph, checkpoint, collecting, {"name": f"{name}_things"}, "cat")
    asked = ask(graph, checkpoint, (0, 240), "a photo of a cat", side)
    compare(graph, checkpoint, erased, 1240, **asked, cfg=7.0)
    graph.note(
        (0, 740),
        (380, 420),
        "How it works",
        f"## Train and erase, {family}\n\n"
        "1. **Collect Activations** draws eight things in six styles, 1,920 pictures, and keeps what passes through a "
        "block of the model: 13 GB in **output/sae_cache**. It says how long it will take.\n"
        f"2. **Train SAE** makes **models/sae/{name}_things.safetensors** of it.\n"
        "3. **Erase Concepts** takes the cat out. Write another thing or style there, and in the prompt, and run "
        "again: only the pictures are made anew.\n\n"
        "Stop whenever you like; the same run again goes on. Things and styles of your own: change the prompts, a line "
        "each, with its labels behind it. Give each a few hundred pictures (**seeds** times its prompts), and choose "
        "new names.\n\n"
        "The numbers are where to begin. They were not tuned for this model; if something of a concept is left, write "
        "**cat: 1.5**.",
    )


def train(graph: Graph, checkpoint: Node, collecting: dict, training: dict, concept: str) -> Node:
    """Collects, trains and erases; returns the erasing node. The first two have room below for what they show."""
    collected = graph.add(
        *("SAEEraser_CollectActivations", (420, UPPER), (360, 590)),
        model=checkpoint["MODEL"],
        clip=checkpoint["CLIP"],
        **collecting,
    )
    trained = graph.add("SAEEraser_TrainSAE", (820, LOWER), (360, 460), cache=collected["cache"], **training)
    return graph.add(
        *("SAEEraser_EraseConcepts", (820, UPPER), (360, 320)),
        model=checkpoint["MODEL"],
        sae=trained["sae"],
        concepts=f"{concept}: 1.0",
    )
