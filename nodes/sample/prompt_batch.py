"""Samples a batch in which every image has its own prompt and its own seed."""

import math
from collections.abc import Callable

import comfy.sample
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher


def encode_prompts(clip, prompts: list[str], repeats: bool = True) -> list:
    """Conditioning of one entry for a batch of prompts, row i for image i, with the hooks that the CLIP carries.

    repeats: they may be repeated, which changes nothing for a model that reads the text by cross-attention alone.
    Raises ValueError if the prompts differ in length and may not.
    """
    encoded = [_encoded(clip, prompt) for prompt in prompts]
    conds = [found.pop("cond") for found in encoded]
    lengths = [cond.shape[1] for cond in conds]
    if len(set(lengths)) > 1 and not repeats:
        raise ValueError(
            f"Prompts that are sampled at once have {min(lengths)} to {max(lengths)} tokens, which this model cannot "
            "take together. Set batch_size to 1, or make them equally long, as the two prompts of a pair must be."
        )
    together = math.lcm(*lengths)
    rows = [cond.repeat(1, together // cond.shape[1], 1) for cond in conds]
    options = {name: _together([found[name] for found in encoded]) for name in encoded[0]}
    return [[torch.cat(rows), {name: value for name, value in options.items() if value is not None}]]


def takes_repeated_prompts(model: ModelPatcher) -> bool:
    """Whether the model reads the text by cross-attention alone, as UNets do."""
    return isinstance(model.model.diffusion_model, UNetModel)


def taken_together(model: ModelPatcher, clip, prompts: list[str]) -> list[list[int]]:
    """Places of the prompts of each batch: all of them, or those of each length if the model needs that."""
    if takes_repeated_prompts(model):
        return [list(range(len(prompts)))]
    lengths = [_encoded(clip, prompt)["cond"].shape[1] for prompt in prompts]
    return [[place for place, own in enumerate(lengths) if own == length] for length in dict.fromkeys(lengths)]


class EncodedOnce:
    """A CLIP, as encode_prompts uses it, that encodes every prompt once: large ones take long."""

    def __init__(self, clip):
        self._clip = clip
        self._known: dict[str, dict] = {}

    def tokenize(self, prompt: str) -> str:
        return prompt

    def encode_from_tokens(self, prompt: str, **options) -> dict:
        if prompt not in self._known:
            self._known[prompt] = self._clip.encode_from_tokens(self._clip.tokenize(prompt), **options)
        return self._known[prompt]


def _encoded(clip, prompt: str) -> dict:
    """What CLIP Text Encode gives: "cond", "pooled_output" and more."""
    return dict(clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True, return_dict=True))


def _together(values: list):
    """One value for the batch of what every prompt has: rows of tensors; of anything else the first."""
    return torch.cat(values) if isinstance(values[0], torch.Tensor) else values[0]


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
    callback: Callable | None = None,
) -> torch.Tensor:
    """Latents [images, channels, ...] of the prompts; image i is the one that its prompt and seed give alone.

    width and height in pixels. Uses ComfyUI's own samplers; samplers that draw noise at every step take the first seed.
    They call callback(step, x0, x, steps) after every step.
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
        encode_prompts(clip, prompts, takes_repeated_prompts(model)),
        encode_prompts(clip, [negative_prompt]),
        torch.cat([empty] * len(seeds)),
        callback=callback,
        seed=seeds[0],
        disable_pbar=True,
    )
