"""ShapeCanvas inside a ComfyUI in this process: its checkpoint opened and sampled by ComfyUI's own nodes."""

from dataclasses import dataclass

import torch
from tqdm import tqdm

from .classifier import Classifier, classify, load_classifier
from .concepts import OBJECTS, STYLES, pair_prompt

SAMPLING = {
    "width": 64,
    "height": 64,
    "steps": 25,
    "cfg": 3.0,
    "sampler_name": "euler",
    "scheduler": "normal",
}
"""The settings of every measurement, unless it says otherwise."""


@dataclass(frozen=True)
class World:
    """The opened checkpoint and the judge of its pictures."""

    model: object
    clip: object
    vae: object
    classifier: Classifier


@dataclass(frozen=True)
class Verdicts:
    """What was asked for and what the classifier sees, indices into OBJECTS and STYLES, each [pictures]."""

    asked_objects: torch.Tensor
    asked_styles: torch.Tensor
    seen_objects: torch.Tensor
    seen_styles: torch.Tensor

    def accuracy(self, group: str, name: str | None = None) -> float:
        """Share of right verdicts on "object" or "style", over all pictures or those that ask for `name`."""
        asked, seen = getattr(self, f"asked_{group}s"), getattr(self, f"seen_{group}s")
        names = OBJECTS if group == "object" else STYLES
        chosen = torch.ones_like(asked, dtype=torch.bool) if name is None else asked == names.index(name)
        return (seen[chosen] == asked[chosen]).double().mean().item()

    def erased(self, group: str, name: str) -> dict[str, float]:
        """UA, IRA and CRA in per cent after erasing `name`; CRA over all pictures, as UnlearnCanvas counts."""
        names = OBJECTS if group == "object" else STYLES
        others = [self.accuracy(group, other) for other in names if other != name]
        cross = self.accuracy("style" if group == "object" else "object")
        return {
            "UA": 100 * (1 - self.accuracy(group, name)),
            "IRA": 100 * sum(others) / len(others),
            "CRA": 100 * cross,
        }


def open_world() -> World:
    """Opens the checkpoint with CheckpointLoaderSimple; ComfyUI must be set up (see comfy_process)."""
    import nodes

    model, clip, vae = nodes.CheckpointLoaderSimple().load_checkpoint("shapecanvas.safetensors")
    return World(model, clip, vae, load_classifier())


def sample_latents(world: World, prompts: list[str], seeds: list[int], model=None, **sampling) -> torch.Tensor:
    """Latents [n, 16, 8, 8] of the prompts by the world's model, or by a patched one."""
    from sae_eraser.nodes.sample.prompt_batch import sample_prompts

    return sample_prompts(model or world.model, world.clip, prompts, seeds, **{**SAMPLING, **sampling})


def decode(world: World, latents: torch.Tensor) -> torch.Tensor:
    """Latents -> pictures [n, height, width, 3] in 0..1, by the world's VAE."""
    return world.vae.decode(latents)


def all_pairs(seeds_per_pair: int, first_seed: int = 0) -> tuple[list[tuple[int, int]], list[int]]:
    """Every object x style pair with as many seeds, as indices into OBJECTS and STYLES; all seeds differ."""
    pairs = [(o, s) for _ in range(seeds_per_pair) for o in range(len(OBJECTS)) for s in range(len(STYLES))]
    return pairs, list(range(first_seed, first_seed + len(pairs)))


def judge(world: World, seeds_per_pair: int, model=None, first_seed: int = 0, batch: int = 96, **sampling) -> Verdicts:
    """Samples all pairs and classifies the pictures."""
    pairs, seeds = all_pairs(seeds_per_pair, first_seed)
    seen_objects, seen_styles = [], []
    for start in tqdm(range(0, len(pairs), batch), desc="sampling", leave=False):
        part = pairs[start : start + batch]
        prompts = [pair_prompt(OBJECTS[o], STYLES[s]) for o, s in part]
        latents = sample_latents(world, prompts, seeds[start : start + batch], model, **sampling)
        objects, styles = classify(world.classifier, decode(world, latents))
        seen_objects.append(objects)
        seen_styles.append(styles)
    asked = torch.tensor(pairs)
    return Verdicts(asked[:, 0], asked[:, 1], torch.cat(seen_objects), torch.cat(seen_styles))
