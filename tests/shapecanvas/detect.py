"""How well Concept Score tells what a picture shows, compared with the classifier, on seeds not trained on."""

from dataclasses import dataclass

import torch
from tqdm import tqdm

from .classifier import classify
from .concepts import OBJECTS, STYLES, pair_prompt
from .world import World, all_pairs, decode, sample_latents

BATCH = 96


@dataclass(frozen=True)
class Detected:
    """How often a concept was met, in per cent."""

    found: float
    """Of the pictures that show it."""
    mistaken: float
    """Of those that do not."""


def detect(
    world: World, sae_name: str, seeds_per_pair: int, threshold: float | None = None, **sampling
) -> dict[str, Detected]:
    """{concept of the SAE: how often it was met} in pictures of all 96 pairs.

    threshold: of Concept Score, its own if None.
    """
    from sae_eraser.nodes.files.sae_files import open_sae
    from sae_eraser.nodes.look.concept_score import THRESHOLD, read_scores
    from sae_eraser.nodes.look.watching import watch

    model, watched = watch(world.model, open_sae(sae_name))
    pairs, seeds = all_pairs(seeds_per_pair)
    met, seen = [], []
    for start in tqdm(range(0, len(pairs), BATCH), desc="sampling", leave=False):
        prompts = [pair_prompt(OBJECTS[o], STYLES[s]) for o, s in pairs[start : start + BATCH]]
        latents = sample_latents(world, prompts, seeds[start : start + BATCH], model, **sampling)
        met.append(read_scores(watched, {"samples": latents}) > (THRESHOLD if threshold is None else threshold))
        seen.append(torch.stack(classify(world.classifier, decode(world, latents)), dim=1))
    table, verdicts = torch.cat(met).double(), torch.cat(seen)
    found = {}
    for index, concept in enumerate(watched.sae.header.concepts):
        column, names = (0, OBJECTS) if concept.group == "object" else (1, STYLES)
        shown = verdicts[:, column] == names.index(concept.name)
        shares = [100 * table[mask, index].mean().item() for mask in (shown, ~shown)]
        found[concept.name] = Detected(*shares)
    return found
