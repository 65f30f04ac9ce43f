"""Samples a batch in which every image has its own prompt and its own seed."""

import comfy.sample
import torch
from comfy.model_patcher import ModelPatcher


def encode_prompts(clip, prompts: list[str]) -> list:
    """Conditioning of one entry for a batch of prompts, row i for image i; short ones are padded by repeating."""
    encoded = [clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True) for prompt in prompts]
    longest = max(cond.shape[1] for cond, _ in encoded)
    rows = []
    for cond, _ in encoded:
        if longest % cond.shape[1]:
            raise ValueError(
                "Prompts of one batch differ too much in length; shorten the longest, or use batch_size 1."
            )
        rows.append(cond.repeat(1, longest // cond.shape[1], 1))
    pooled = [pooled for _, pooled in encoded]
    options = {"pooled_output": torch.cat(pooled)} if pooled[0] is not None else {}
    return [[torch.cat(rows), options]]


def sample_prompts(
    model: ModelPatcher,
    clip,
    prompts: list[str],
    seeds: list[int],
    *,
    width: int,
    height: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    negative_prompt: str = "",
) -> torch.Tensor:
    """Latents [images, channels, ...] of the prompts; image i is the one that its prompt and seed give alone.

    width and height in pixels. Uses ComfyUI's own samplers; samplers that draw noise at every step take the first seed.
    """
    latent_format = model.get_model_object("latent_format")
    scale = latent_format.spacial_downscale_ratio
    empty = torch.zeros(1, latent_format.latent_channels, height // scale, width // scale)
    empty = comfy.sample.fix_empty_latent_channels(model, empty)  # a model for videos gets one frame
    noise = torch.cat([comfy.sample.prepare_noise(empty, seed) for seed in seeds])
    return comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        sampler_name,
        scheduler,
        encode_prompts(clip, prompts),
        encode_prompts(clip, [negative_prompt]),
        torch.cat([empty] * len(seeds)),
        seed=seeds[0],
        disable_pbar=True,
    )
