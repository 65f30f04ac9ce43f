"""Calibrates how far the concepts of an SAE file are turned, by what is drawn: the strength that serves best becomes 1.

For every concept a few strengths are tried on pictures of their own seeds; half of them ask for the concept. Kept is
the strength with the best worst score of UA, IRA and CRA.
"""

import random
from dataclasses import replace
from pathlib import Path

import torch

from .classifier import classify
from .concepts import OBJECTS, STYLES, pair_prompt
from .evaluate import erased_model
from .world import World, decode, sample_latents

STRENGTHS = (0.4, 0.6, 0.8, 1.0, 1.4, 2.0)
FIRST_SEED = 2_000_000
PICTURES = 48  # that ask for the concept, and as many that do not


def calibrate(world: World, path: Path) -> None:
    """Rewrites the SAE file with the turns found; prints a Markdown table of what was measured."""
    from sae_eraser.sae_ops.sae_file import load_sae, save_sae

    sae, header, statistics = load_sae(path)
    print("| concept | strength | UA | IRA | CRA |\n|---|---|---|---|---|")
    concepts = []
    for concept in header.concepts:
        scores = {}
        for strength in STRENGTHS:
            model = erased_model(world, path.name, concept.name, strength=strength)
            scores[strength] = _scores(world, model, concept.group, concept.name)
        best = max(scores, key=lambda strength: min(scores[strength]))
        print(f"| {concept.name} | {best} | " + " | ".join(f"{score:.0f}" for score in scores[best]) + " |", flush=True)
        turned = replace(concept, turn=best * (1 + concept.turn) - 1, multiplier=best * concept.multiplier)
        concepts.append(turned)
    save_sae(path, sae, replace(header, concepts=tuple(concepts)), statistics)


def _scores(world: World, model, group: str, name: str) -> tuple[float, float, float]:
    """UA, IRA and CRA in per cent, weighted as if every pair had been drawn equally often."""
    own, cross = (0, 1) if group == "object" else (1, 0)
    names = (OBJECTS, STYLES)[own]
    rng = random.Random(name)
    pairs = [(o, s) for o in range(len(OBJECTS)) for s in range(len(STYLES))]
    asking = [pair for pair in pairs if pair[own] == names.index(name)]
    others = rng.sample([pair for pair in pairs if pair not in asking], PICTURES)
    asked = [asking[i % len(asking)] for i in range(PICTURES)] + others
    prompts = [pair_prompt(OBJECTS[o], STYLES[s]) for o, s in asked]
    seeds = list(range(FIRST_SEED, FIRST_SEED + len(asked)))
    seen = classify(world.classifier, decode(world, sample_latents(world, prompts, seeds, model)))
    right = torch.stack([seen[column] == torch.tensor(asked)[:, column] for column in range(2)]).float() * 100
    share = 1 / len(names)
    spared = share * right[cross, :PICTURES].mean() + (1 - share) * right[cross, PICTURES:].mean()
    return 100 - right[own, :PICTURES].mean().item(), right[own, PICTURES:].mean().item(), spared.item()
