"""Templates that look at concepts while the model samples."""

from .graph import Graph, Node
from .parts import (
    DRAWN,
    LOWER,
    NARROWEST,
    OBJECTS,
    SAMPLING,
    SMALL_WORLD,
    UPPER,
    ask,
    decode,
    draw,
    load,
    load_sae,
    save,
)


def see_where_a_concept_is(graph: Graph) -> None:
    checkpoint = load(graph)
    watched = watch(graph, checkpoint, OBJECTS)
    asked = ask(graph, checkpoint, (420, 220), "a house in neon style")
    latent, images = draw(graph, checkpoint, watched, (840, UPPER), "Pictures", **asked)
    look = {"watch": watched["watch"], "latent": latent}
    heat = graph.add("SAEEraser_ConceptHeatmap", (840, LOWER), (270, 150), image=images, concept="house", **look)
    save(graph, heat["overlay"], (1380, LOWER), "Heatmap")
    mask = graph.add("MaskToImage", (1130, LOWER), (NARROWEST, 30), "Mask to image", mask=heat["mask"])
    graph.add("PreviewImage", (1710, LOWER), (300, 300), "Mask", images=mask["IMAGE"])
    graph.add("PreviewImage", (1380, LOWER + 360), (630, 300), "Steps", images=heat["steps"])
    graph.add("SAEEraser_ConceptScore", (840, LOWER + 230), (500, 430), **look)
    graph.note(
        (0, 380),
        (380, 380),
        "How it works",
        "## See where a concept is\n\n"
        "**Watch Concepts** records how strongly the concepts of an SAE fire while the model samples. The picture "
        "stays the same.\n\n"
        "**Concept Heatmap** shows where one of them fired: red is as much as usual in pictures that show it. *Mask* "
        "is the share of the steps at which it fired at each place; connect it to the mask of Erase Concept to erase "
        "only there. *Steps* shows it from the first step to the last.\n\n"
        "**Concept Score** lists all concepts: about 1 is as in pictures with the concept, about 0 as in those "
        "without.\n\n" + SMALL_WORLD + " It notes some of its objects in the background beside them.",
    )


def withhold_pictures_of_a_concept(graph: Graph) -> None:
    checkpoint = load(graph)
    watched = watch(graph, checkpoint, DRAWN)
    prompts = ("a star in neon style", "a heart in neon style", "a tree in plain style", "a star in plain style")
    sampled = graph.add(
        *("SAEEraser_SamplePrompts", (420, 220), (360, 420)),
        model=watched["MODEL"],
        clip=checkpoint["CLIP"],
        prompts="\n".join(["prompt", *prompts]),
        **{"width": 64, "height": 64, **SAMPLING},
    )
    images = decode(graph, checkpoint, sampled["LATENT"], (840, UPPER))
    guarded = graph.add(
        *("SAEEraser_ConceptGuard", (840, LOWER), (300, 260)),
        image=images,
        watch=watched["watch"],
        latent=sampled["LATENT"],
        concepts="star",
        action="blur",
    )
    save(graph, images, (1200, UPPER), "Unguarded")
    save(graph, guarded["IMAGE"], (1200, LOWER), "Guarded")
    graph.note(
        (0, 380),
        (380, 370),
        "How it works",
        "## Withhold pictures of a concept\n\n"
        "**Concept Guard** lets no picture through in which one of its concepts was met: it blurs or blackens it, or "
        "stops the run. The others of the batch stay as they are. It goes by what is drawn, whatever the prompt says; "
        "an **Erase Concept** before **Watch Concepts** leaves it little to do.\n\n"
        "1. Choose an SAE made for your checkpoint and trained with branch uncond in **Load SAE**.\n"
        "2. Write the concepts, separated by commas.\n"
        "3. Put the node between **VAE Decode** and the node that saves. Any sampler serves in the place of "
        "**Sample Prompts**.\n\n" + SMALL_WORLD,
    )


def watch(graph: Graph, checkpoint: Node, name: str) -> Node:
    kind, sae = "SAEEraser_WatchConcepts", load_sae(graph, name)
    return graph.add(kind, (420, UPPER), (360, 70), model=checkpoint["MODEL"], sae=sae["SAE"])
