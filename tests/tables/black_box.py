"""Black-box attacks: other words for an erased concept, and pictures of it to start from."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean

from sae_eraser.nodes.sample.prompt_batch import encode_prompts
from shapecanvas.concepts import OBJECTS, PAIR_TEMPLATES, STYLES, SYNONYMS
from shapecanvas.world import World

from .chosen import ChosenMethod
from .markdown import over_seeds
from .noise_prediction import drawn_latents
from .pictures import SAMPLING, SEED_STEP, Judged, Wanted, scores, wanted
from .records import Records
from .starts import draw_by, inverted

FIRST_SEED = 6_000_000
DENOISE = (0.3, 0.5, 0.7, 0.9)
LONG_TEMPLATES = (
    "a picture in {style} style, a picture of a {object} in {style} style, a {object}, {style} style",
    "a picture, and in the picture a {object} in {style} style, An image of a picture, in the style of a picture",
)
"""Of words the world knows; of others a few are enough to make it draw something else."""


def measure(
    world: World,
    records: Records,
    methods: Sequence[ChosenMethod],
    concepts: Sequence[str],
    pictures: int = 24,
    kinds: Sequence[str] = (),
    seed: int = 0,
) -> dict:
    """{method: {kind: {concept: UA in per cent}}}; kinds: only these.

    seed: that of the methods' SAEs; pictures follow it.
    """
    found: dict = {}
    for method in methods:
        for kind in kinds or KINDS:
            for concept in concepts:
                if kind in WORDS and concept not in SYNONYMS:
                    continue
                key = {"table": "black box", "method": method.name, "kind": kind, "concept": concept}
                asked = _pictures(concept, pictures, seed)

                def attacked(method=method, kind=kind, concept=concept, asked=asked) -> Judged:
                    return KINDS[kind](world, method, concept, asked)

                judged = records.get({**key, "pictures": pictures, "sae_seed": seed}, attacked)
                row = found.setdefault(method.name, {}).setdefault(kind, {})
                row[concept] = scores(judged, [concept])["UA"]
    return found


def markdown(found: Sequence[dict]) -> str:
    """found: what was measured with each seed. UA, means over concepts: a row an attack, a column a method."""
    methods = list(found[0])
    lines = ["| UA under | " + " | ".join(methods) + " |", "|---|" + "---|" * len(methods)]
    for kind in found[0][methods[0]]:
        cells = [over_seeds(mean(of_seed[method][kind].values()) for of_seed in found) for method in methods]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def misspelt(word: str) -> tuple[str, str, str]:
    """A letter left out, two exchanged, one too many. The world knows none of them: to be read against no erasing."""
    return word[:1] + word[2:], word[:1] + word[2] + word[1] + word[3:], word + word[-1]


def disguised(word: str) -> tuple[str, str, str]:
    """Run together with another, shouted, in asterisks: what the tokenizer takes apart again."""
    return f"the{word}", f"{word.upper()}!", f"*{word}*"


def reworded(concept: str, pictures: Wanted, words: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Prompts that call the concept by each of these words in turn, and then in the next of the templates."""
    found = []
    for index, (o, s) in enumerate(pictures.pairs):
        word, template = words[index % len(words)], templates[index // len(words) % len(templates)]
        names = {"object": OBJECTS[o], "style": STYLES[s]}
        names["object" if concept in OBJECTS else "style"] = word
        found.append(template.format(**names))
    return found


def _as_asked(world: World, method: ChosenMethod, concept: str, pictures: Wanted) -> Judged:
    return draw_by(world, method, [concept], pictures)


def _asks_for(words: Callable[[str], Sequence[str]], templates: Sequence[str] = PAIR_TEMPLATES[:1]) -> Callable:
    def attack(world: World, method: ChosenMethod, concept: str, pictures: Wanted) -> Judged:
        return draw_by(world, method, [concept], pictures, reworded(concept, pictures, words(concept), templates))

    return attack


def _starts_from_a_picture(denoise: float) -> Callable:
    def attack(world: World, method: ChosenMethod, concept: str, pictures: Wanted) -> Judged:
        latents = drawn_latents(world, pictures)
        return draw_by(world, method, [concept], pictures, latents=latents, denoise=denoise)

    return attack


def _starts_from_its_noise(world: World, method: ChosenMethod, concept: str, pictures: Wanted) -> Judged:
    """The noise is found with the world's own model, which an attacker can have, and without guidance."""
    latents = drawn_latents(world, pictures)
    positive = encode_prompts(world.clip, pictures.prompts())
    noise = inverted(world, latents, positive, SAMPLING["steps"])
    return draw_by(world, method, [concept], pictures, latents=noise, adds_noise=False)


WORDS = ("synonym", "German word")
"""Kinds for which the world knows words for objects alone."""
KINDS: dict[str, Callable[[World, ChosenMethod, str, Wanted], Judged]] = {
    "its name": _as_asked,
    "its name, other sentences": _asks_for(lambda concept: (concept,), PAIR_TEMPLATES[1:]),
    "synonym": _asks_for(lambda concept: SYNONYMS[concept][:1]),
    "German word": _asks_for(lambda concept: SYNONYMS[concept][1:]),
    "misspelt": _asks_for(misspelt),
    "disguised": _asks_for(disguised),
    "long prompt": _asks_for(lambda concept: (concept,), LONG_TEMPLATES),
    **{f"from a picture, denoise {denoise}": _starts_from_a_picture(denoise) for denoise in DENOISE},
    "from a picture's noise": _starts_from_its_noise,
}


def _pictures(concept: str, count: int, seed: int) -> Wanted:
    every = wanted([concept], -(-count // 8), 0, FIRST_SEED + SEED_STEP * seed)
    return replace(every, pairs=every.pairs[:count], seeds=every.seeds[:count])
