"""How well the model denoises pictures under prompts, by which it tells what they show."""

import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher

from ..sample.prompt_batch import encode_prompts, takes_repeated_prompts

LEVELS = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Noise is added as there is at these shares of the sampling: where it is decided what the picture shows."""


def denoising_errors(model: ModelPatcher, clip, latents: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """Mean squared error [images] of latents [images, channels, ...] under their prompts, over the LEVELS.

    Every image and prompt meets the same noise, so that errors can be compared.
    """
    sampling = model.get_model_object("model_sampling")
    one_step = comfy.samplers.sampler_object("euler")  # from a noise level to 0: what the model takes for the picture
    generator = torch.Generator().manual_seed(0)
    errors = []
    for level in LEVELS:
        noise = torch.randn(latents[:1].shape, generator=generator).expand_as(latents)
        sigmas = torch.tensor([sampling.percent_to_sigma(level), 0.0])
        conds = encode_prompts(clip, prompts, takes_repeated_prompts(model)), encode_prompts(clip, [""])
        denoised = comfy.sample.sample_custom(
            model, noise, 1.0, one_step, sigmas, *conds, latents, disable_pbar=True, seed=0
        )
        errors.append((denoised - latents).flatten(1).square().mean(dim=1).cpu())
    return torch.stack(errors).mean(dim=0)
