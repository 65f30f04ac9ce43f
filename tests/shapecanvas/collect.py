"""The activation cache that the shipped SAEs are trained on, made by the node Collect Activations."""

import json
from pathlib import Path

from .concepts import OBJECTS, STYLES, pair_prompt
from .world import SAMPLING, World


def labelled_prompts() -> str:
    """All pairs as JSON lines."""
    rows = [{"prompt": pair_prompt(o, s), "object": o, "style": s} for o in OBJECTS for s in STYLES]
    return "\n".join(json.dumps(row) for row in rows)


def collect(world: World, hookpoints: list[str], seeds: int, name: str, branch: str, **sampling) -> Path:
    """Samples every pair with `seeds` seeds, which no measurement uses, into ComfyUI's output/sae_cache/NAME.

    branch: which halves of guidance are kept, "cond" or "both". sampling: what differs from SAMPLING.
    """
    from sae_eraser.nodes.collect.collect_activations import CollectActivations

    (folder,) = CollectActivations.execute(
        model=world.model,
        clip=world.clip,
        prompts=labelled_prompts(),
        hookpoints=", ".join(hookpoints),
        name=name,
        seeds=seeds,
        first_seed=1_000_000,
        batch_size=96,
        storage="fp16",
        keep_steps=0,
        keep_positions=0,
        sigma_min=0.0,
        sigma_max=0.0,
        branch=branch,
        hooked="output",
        shard="1/1",
        **{**SAMPLING, **sampling},
    ).result
    return Path(folder)
