"""Training the diffusion model, UNet and text encoder together."""

import random
from collections.abc import Callable
from pathlib import Path

import torch

from ..concepts import training_prompt
from .drawings import PAIRS
from .fitting import bf16, fit, initialise

UNET, TEXT_ENCODER = "model.diffusion_model.", "cond_stage_model.clip_l.transformer."
"""What names in a checkpoint begin with."""


def build_diffusion() -> tuple[torch.nn.Module, torch.nn.Module, Callable[[str], list[int]]]:
    """ComfyUI's UNet, its CLIP text encoder and its tokenizer, with fresh weights."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    from .. import extension

    torch.manual_seed(2)
    config = {**extension.ShapeCanvas.unet_config, **extension.ShapeCanvas.unet_extra_config}
    unet = UNetModel(image_size=32, use_spatial_transformer=True, legacy=False, dtype=torch.float32, **config)
    text_encoder = extension.ShapeCanvasTextEncoder(dtype=torch.float32)
    initialise(unet)
    initialise(text_encoder.clip_l.transformer)
    embeddings = text_encoder.clip_l.transformer.text_model.embeddings
    torch.nn.init.normal_(embeddings.token_embedding.weight, std=1.0)
    torch.nn.init.normal_(embeddings.position_embedding.weight, std=0.1)  # words must not drown in their places
    tokenizer = extension.ShapeCanvasTokenizer()

    def tokens_of(prompt):
        (chunk,) = tokenizer.tokenize_with_weights(prompt)["l"]
        return [token for token, _ in chunk]

    return unet, text_encoder.clip_l, tokens_of


def encode_text(text_encoder: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """What ComfyUI's CLIPTextModel computes, [prompts, 32, 48], without its in-place sums, which stop gradients."""
    from comfy.ldm.modules.attention import optimized_attention

    model = text_encoder.transformer.text_model
    length = tokens.shape[1]
    mask = torch.full((length, length), -torch.finfo(torch.float32).max).triu(1)
    x = model.embeddings(tokens, dtype=torch.float32)
    for layer in model.encoder.layers:
        x = x + layer.self_attn(layer.layer_norm1(x), mask, optimized_attention)
        x = x + layer.mlp(layer.layer_norm2(x))
    return model.final_layer_norm(x)


def train_diffusion(work: Path, latents: torch.Tensor, per_pair: int, steps: int, start: dict):
    """Noise prediction on SD's schedule, UNet and text encoder together, from these weights on if there are any."""
    unet, text_encoder, tokens_of = build_diffusion()
    if start:
        unet.load_state_dict(part_of(start, UNET))
        text_encoder.transformer.load_state_dict(part_of(start, TEXT_ENCODER))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal = torch.cumprod(1 - betas, dim=0)
    weight = (1 / signal).clamp(max=10)  # the object is decided where noise is strong and the plain error small
    tokens: dict[str, list[int]] = {}

    def loss_of(step, generator):
        batch = torch.randint(len(latents), (128,), generator=generator)
        words = random.Random(step)
        prompts = [training_prompt(*PAIRS[index // per_pair], words) for index in batch.tolist()]
        distinct = sorted(set(prompts))
        for prompt in distinct:
            if prompt not in tokens:
                tokens[prompt] = tokens_of(prompt)
        time = torch.randint(1000, (len(batch),), generator=generator)
        clean = latents[batch].float()
        noise = torch.randn(clean.shape, generator=generator)
        share = signal[time][:, None, None, None]
        with bf16():
            context = encode_text(text_encoder, torch.tensor([tokens[prompt] for prompt in distinct]))
            context = context[[distinct.index(prompt) for prompt in prompts]]
            predicted = unet(share.sqrt() * clean + (1 - share).sqrt() * noise, time, context=context)
        error = (predicted.float() - noise).square().mean(dim=(1, 2, 3))
        return (error * weight[time]).mean()

    fit("diffusion", work, {"unet": unet, "text": text_encoder.transformer}, loss_of, steps, 1e-3, ema=0.999)
    return unet, text_encoder


def part_of(checkpoint: dict, prefix: str) -> dict:
    """The tensors whose names begin so, without it, in fp32."""
    return {name[len(prefix) :]: value.float() for name, value in checkpoint.items() if name.startswith(prefix)}
