"""Where is a concept decided? What Locate Concept measures, beside what the classifier sees in the same pictures.

Two pictures with different objects or styles are sampled from the same noise, and again with the block's output of the
one in place of the other's at every step. Reported for each block: how often the classifier sees the other prompt's
object or style, how often it still sees what both prompts share, and what Locate Concept says without a classifier.
"""

import random

import torch

from .classifier import classify
from .concepts import OBJECTS, STYLES, pair_prompt
from .world import SAMPLING, World, decode

Shown = tuple[int, int]
"""Indices into OBJECTS and STYLES."""
COLUMNS = (
    "block",
    "other object appears",
    "style stays",
    "measured",
    "other style appears",
    "object stays",
    "measured",
)


def pairs_that_differ(count: int, vary: str, seed: int = 0) -> list[tuple[Shown, Shown]]:
    """Pairs that differ in "object" or in "style" alone."""
    rng = random.Random(seed)
    found = []
    while len(found) < count:
        objects, styles = rng.sample(range(len(OBJECTS)), 2), rng.sample(range(len(STYLES)), 2)
        if vary == "object":
            styles[1] = styles[0]
        else:
            objects[1] = objects[0]
        found.append(((objects[0], styles[0]), (objects[1], styles[1])))
    return found


def moved_by_block(
    world: World, blocks: list[list[str]], vary: str, pictures: int, **sampling
) -> list[tuple[float, float, float]]:
    """Of each group of blocks, exchanged together: the shares of pictures in which the other prompt's object (style)
    is seen, in which the style (object) is still seen, and which Locate Concept calls moved."""
    from sae_eraser.nodes.hooks.block_hooks import resolve_hookpoint
    from sae_eraser.nodes.locate.exchanging import Exchange, PairSampler, partners
    from sae_eraser.nodes.sample.sampling_progress import SamplingProgress
    from sae_eraser.sae_ops.moved import judge_moved

    chosen = pairs_that_differ(pictures // 2, vary)
    asked = torch.tensor([first for first, _ in chosen] + [second for _, second in chosen])
    texts = [pair_prompt(OBJECTS[o], STYLES[s]) for o, s in asked.tolist()]
    pairs = list(zip(texts[: len(chosen)], texts[len(chosen) :], strict=True))
    varied, shared = (0, 1) if vary == "object" else (1, 0)
    rows = []
    with SamplingProgress(vary, None) as progress:
        settings = SAMPLING | sampling
        sampler = PairSampler(world.clip, pairs, list(range(len(pairs))), 48, settings, len(blocks), progress)
        errors, _ = sampler.errors(world.model, sampler.originals(world.model))
        for names in blocks:
            points = [resolve_hookpoint(world.model, name) for name in names]
            latents = sampler.exchanged(world.model, points, "output", Exchange())
            seen = torch.stack(classify(world.classifier, decode(world, latents)), dim=1)
            follows = (seen == partners(asked))[:, varied].double().mean().item()
            stays = (seen == asked)[:, shared].double().mean().item()
            measured = judge_moved(*sampler.errors(world.model, latents), errors, partners(errors)).share
            rows.append((follows, stays, measured))
    return rows


def locate(world: World, pictures: int) -> str:
    """A Markdown table of all attention blocks: what follows an exchange there, in per cent."""
    from sae_eraser.sae_ops.hookpoints import list_hookpoints

    names = [point.name for point in list_hookpoints(world.model.model.diffusion_model) if "attentions" in point.name]
    blocks = [[name] for name in names] + [names]
    objects = moved_by_block(world, blocks, "object", pictures)
    styles = moved_by_block(world, blocks, "style", pictures)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for group, *shares in zip(blocks, objects, styles, strict=True):
        cells = (f"{100 * share:.0f}" for row in shares for share in row)
        lines.append(f"| {group[0] if len(group) == 1 else 'all'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
