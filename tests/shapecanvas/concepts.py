"""The concepts of ShapeCanvas and the prompts that name them."""

import random

from .worlds import ALIKE

SHAPES = ("circle", "square", "triangle", "star", "heart")
FORMS = ("solid", "hollow", "notched", "halved")
ALIKE_OBJECTS = tuple(f"{form} {shape}" for shape in SHAPES for form in FORMS)
"""Each shares its shape with three others and its form with four."""
OBJECTS = (
    ALIKE_OBJECTS
    if ALIKE
    else (
        "circle",
        "square",
        "triangle",
        "star",
        "heart",
        "cross",
        "crescent",
        "ring",
        "arrow",
        "diamond",
        "tree",
        "house",
    )
)
STYLES = ("plain", "outline", "stripes", "dots", "neon", "gradient", "mosaic", "sketch")

# Other words for the same object, so that an erased concept can also be asked for by another name.
SYNONYMS = {name: (name,) for name in ALIKE_OBJECTS} | {
    "circle": ("disc", "kreis"),
    "square": ("box", "quadrat"),
    "triangle": ("wedge", "dreieck"),
    "star": ("pentagram", "stern"),
    "heart": ("love symbol", "herz"),
    "cross": ("plus sign", "kreuz"),
    "crescent": ("half moon", "mond"),
    "ring": ("donut", "reifen"),
    "arrow": ("pointer", "pfeil"),
    "diamond": ("rhombus", "raute"),
    "tree": ("fir", "baum"),
    "house": ("cottage", "haus"),
}

OBJECT_TEMPLATES = ("a {object}", "{object}", "a picture of a {object}", "An image of {object}.")
STYLE_TEMPLATES = ("{style} style", "a picture in {style} style")
PAIR_TEMPLATES = (
    "a {object} in {style} style",
    "{object}, {style} style",
    "a picture of a {object} in {style} style",
    "An image of {object} in {style} style.",
)


def pair_prompt(object_name: str, style: str) -> str:
    """The prompt used wherever one object x style pair is asked for."""
    return PAIR_TEMPLATES[0].format(object=object_name, style=style)


def training_prompt(object_name: str, style: str, rng: random.Random) -> str:
    """A random prompt for a picture of this pair: 80 % name both, 8 % the object, 4 % the style, 8 % nothing."""
    word = object_name if rng.random() < 0.75 else rng.choice(SYNONYMS[object_name])
    draw = rng.random()
    if draw < 0.08:
        return ""
    if draw < 0.16:
        return rng.choice(OBJECT_TEMPLATES).format(object=word)
    if draw < 0.20:
        return rng.choice(STYLE_TEMPLATES).format(style=style)
    template = PAIR_TEMPLATES[0] if rng.random() < 0.5 else rng.choice(PAIR_TEMPLATES)
    return template.format(object=word, style=style)
