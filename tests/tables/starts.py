"""Samples from any conditioning and any start, with ComfyUI's own samplers."""

from collections.abc import Callable

import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher

from sae_eraser.nodes.sample.prompt_batch import encode_prompts
from shapecanvas.world import World, decode

from .chosen import ChosenMethod
from .guard import Guard
from .pictures import BATCH, SAMPLING, Judged, Wanted, all_judged, judged


def draw_by(
    world: World,
    method: ChosenMethod,
    concepts: list[str],
    pictures: Wanted,
    prompts: list[str] | None = None,
    latents: torch.Tensor | None = None,
    *,
    with_patches: Callable[[ModelPatcher], ModelPatcher] = lambda model: model,
    **sampling,
) -> Judged:
    """The pictures as a method draws them that erases the concepts.

    prompts: other words for the same pairs. latents: starts. with_patches: other patches for the same model.
    """
    chosen = method.chosen(world, concepts)
    model = with_patches(chosen.model)
    words, found = prompts or pictures.prompts(), []
    for begin in range(0, len(words), BATCH):
        part = slice(begin, begin + BATCH)
        start = None if latents is None else latents[part]
        positive = encode_prompts(world.clip, words[part])
        drawn = sample_from(world, model, positive, chosen.negative_prompt, pictures.seeds[part], start, **sampling)
        found.append(judge_latents(world, drawn, pictures.pairs[part], chosen.guard))
    return all_judged(found)


def sample_from(
    world: World,
    model: ModelPatcher | None,
    positive: list,
    negative: str,
    seeds: tuple[int, ...],
    latents: torch.Tensor | None = None,
    *,
    denoise: float = 1.0,
    adds_noise: bool = True,
    **sampling,
) -> torch.Tensor:
    """Latents [n, 16, height / 8, width / 8] of a conditioning with a row for each seed.

    latents: a start [n, 16, ...] for image-to-image, else nothing. Without adds_noise they are taken to be as noisy
    as the first step wants them.
    """
    model, settings = model or world.model, {**SAMPLING, **sampling}
    if latents is None:
        latents = torch.zeros(len(seeds), 16, settings["height"] // 8, settings["width"] // 8)
    noise = torch.cat([comfy.sample.prepare_noise(latents[:1], seed) for seed in seeds])
    return comfy.sample.sample(
        model,
        noise if adds_noise else torch.zeros_like(noise),
        settings["steps"],
        settings["cfg"],
        settings["sampler_name"],
        settings["scheduler"],
        positive,
        encode_prompts(world.clip, [negative]),
        latents,
        denoise=denoise,
        seed=seeds[0],
        disable_pbar=True,
    )


def inverted(world: World, latents: torch.Tensor, positive: list, steps: int) -> torch.Tensor:
    """The noise from which the world's own model draws these latents with this conditioning: Euler steps upwards."""
    sampling = world.model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, SAMPLING["scheduler"], steps).flip(0)
    sigmas[0] = sigmas[1] / 100  # nothing can be predicted without noise
    return comfy.sample.sample_custom(
        world.model,
        torch.zeros_like(latents),
        1.0,
        comfy.samplers.sampler_object("euler"),
        sigmas,
        positive,
        positive,
        latents,
        disable_pbar=True,
        seed=0,
    )


def judge_latents(
    world: World, latents: torch.Tensor, pairs: tuple[tuple[int, int], ...], guard: Guard | None = None
) -> Judged:
    """Decodes the latents of one run and judges them; pairs: (object, style) asked for."""
    withheld = guard(latents) if guard else None
    return judged(world.classifier, decode(world, latents), torch.tensor(pairs), withheld)
