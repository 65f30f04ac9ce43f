"""Where is a concept decided? Exchanges the activations of a block between two prompts and sees what moves along.

Two pictures with different objects or styles are sampled from the same noise. At every step the block's output of the
one is put in place of the other's. Reported for each block: how often the object or style of the other prompt appears,
and how often what both prompts share, or what the own prompt asked for, stays.
"""

import random

import torch

from .classifier import classify
from .concepts import OBJECTS, STYLES, pair_prompt
from .world import World, decode, sample_latents


def exchange(x: torch.Tensor, sigma: torch.Tensor, is_cond: torch.Tensor) -> torch.Tensor:
    """Swaps the first and the second half of the pictures within the conditional half of the batch."""
    result = x.clone()
    first, second = x[is_cond].chunk(2)
    result[is_cond] = torch.cat([second, first])
    return result


def pairs_of_prompts(count: int, vary: str, seed: int = 0) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Pairs of (object, style) that differ in "object" or in "style" alone."""
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


def moved(world: World, names: list[str], vary: str, pictures: int) -> dict[str, float]:
    """Shares of pictures after the exchange at these blocks: "follows" the other prompt, "stays" with its own."""
    from sae_eraser.nodes.block_hooks import BlockHook, resolve_hookpoint, with_hooks

    hooks = tuple(BlockHook(resolve_hookpoint(world.model, name), "output", exchange) for name in names)
    model = with_hooks(world.model, hooks)
    chosen = pairs_of_prompts(pictures // 2, vary)
    asked = torch.tensor([first for first, _ in chosen] + [second for _, second in chosen])
    prompts = [pair_prompt(OBJECTS[o], STYLES[s]) for o, s in asked.tolist()]
    seeds = list(range(len(chosen))) * 2
    objects, styles = classify(world.classifier, decode(world, sample_latents(world, prompts, seeds, model)))
    other = torch.cat(list(reversed(asked.chunk(2))))
    shares = {}
    for column, (group, seen) in enumerate({"object": objects, "style": styles}.items()):
        if vary == group:
            shares[f"{group} follows"] = (seen == other[:, column]).float().mean().item()
        shares[f"{group} stays"] = (seen == asked[:, column]).float().mean().item()
    return shares


def locate(world: World, pictures: int) -> str:
    """A Markdown table of all attention blocks: what follows an exchange there, in per cent."""
    from sae_eraser.sae_ops.hookpoints import list_hookpoints

    names = [point.name for point in list_hookpoints(world.model.model.diffusion_model) if "attentions" in point.name]
    lines = [
        "| block | other object appears | style stays | other style appears | object stays |",
        "|---|---|---|---|---|",
    ]
    for name in [*names, " + ".join(names)]:
        objects = moved(world, name.split(" + "), "object", pictures)
        styles = moved(world, name.split(" + "), "style", pictures)
        shares = objects["object follows"], objects["style stays"], styles["style follows"], styles["object stays"]
        lines.append(f"| {name} | " + " | ".join(f"{100 * share:.0f}" for share in shares) + " |")
    return "\n".join(lines)
