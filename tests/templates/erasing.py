"""Templates that erase concepts."""

from .graph import Graph, Node
from .parts import LOWER, OBJECTS, SMALL_WORLD, STYLES, UPPER, ask, compare, load, load_sae, prompt

PROMPT = "a star in neon style"


def erase_one_concept(graph: Graph) -> None:
    checkpoint = load(graph)
    erased = erase(graph, checkpoint, (420, UPPER), OBJECTS, "star")
    compare(graph, checkpoint, erased, 840, **ask(graph, checkpoint, (420, LOWER), PROMPT))
    graph.note(
        (0, 380),
        (380, 300),
        "How it works",
        "## Erase one concept\n\n"
        "1. Choose an SAE made for your checkpoint (files in **models/sae**).\n"
        "2. Choose the concept.\n"
        "3. Run: the same seeds, with and without the concept.\n\n"
        "**strength** 0 changes nothing, 1 erases. Chain the node to erase several concepts.\n\n" + SMALL_WORLD,
    )


def erase_several_concepts(graph: Graph) -> None:
    checkpoint = load(graph)
    objects = graph.add(
        "SAEEraser_EraseConcepts",
        (420, UPPER),
        (360, 320),
        model=checkpoint["MODEL"],
        sae=load_sae(graph, OBJECTS)["SAE"],
        concepts="star: 1.0, heart: 1.0",
    )
    style = erase(graph, objects, (820, UPPER), STYLES, "neon")
    compare(graph, checkpoint, style, 1240, **ask(graph, checkpoint, (820, LOWER), PROMPT))
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


def erase_in_one_region(graph: Graph) -> None:
    checkpoint = load(graph)
    black = graph.add("SolidMask", (420, UPPER), (360, 110), "Whole picture: black", value=0.0, width=128, height=64)
    white = graph.add("SolidMask", (420, 225), (360, 110), "Left half: white", value=1.0, width=64, height=64)
    mask = graph.add(
        *("MaskComposite", (420, 390), (360, 150), "Where to erase"),
        destination=black["MASK"],
        source=white["MASK"],
        operation="add",
    )
    erased = erase(graph, checkpoint, (820, UPPER), OBJECTS, "star", mask=mask["MASK"])
    halves = [
        graph.add(
            *("ConditioningSetAreaPercentage", (820, y), (360, 160), f"In the {side} half"),
            conditioning=prompt(graph, checkpoint, (420, y), PROMPT, f"Prompt, {side}"),
            **{"width": 0.5, "height": 1.0, "x": x},
        )["CONDITIONING"]
        for side, x, y in (("left", 0.0, 595), ("right", 0.5, 810))
    ]
    both = graph.add("ConditioningCombine", (820, 1025), (360, 60), conditioning_1=halves[0], conditioning_2=halves[1])
    negative = prompt(graph, checkpoint, (420, 1025), "", "Negative prompt")
    latent = graph.add("EmptyLatentImage", (1240, 810), (300, 130), width=128, height=64, batch_size=4)
    asked = {"positive": both["CONDITIONING"], "negative": negative, "latent_image": latent["LATENT"]}
    compare(graph, checkpoint, erased, 1240, **asked)
    graph.note(
        (0, 240),
        (380, 300),
        "How it works",
        "## Erase in one region\n\n"
        "Two prompts, one for each half of the picture, ask for the same. **Erase Concept** has a mask and erases only "
        "where it is white: on the left.\n\n"
        "The mask is stretched over the picture, whatever its size. One that you draw or that another node finds "
        "serves as well; where it is grey the concept is erased in part.\n\n"
        "Run: the same seeds, with and without the erasure.\n\n" + SMALL_WORLD,
    )


def erase(graph: Graph, model: Node, place: tuple[int, int], sae: str, concept: str, **inputs) -> Node:
    kind, size = "SAEEraser_EraseConcept", (360, 300)
    return graph.add(kind, place, size, model=model["MODEL"], sae=sae, sae__concept=concept, **inputs)
