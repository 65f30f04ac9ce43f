"""Training the autoencoder, between pictures and latents."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from .drawings import as_input
from .fitting import bf16, fit, initialise

LATENT_CHANNELS, PATCH = 16, 8


def principal_patches(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The linear encoder: 8 x 8 patches on their 16 leading principal components, each of unit variance.

    Returns the convolution's weight [16, 3, 8, 8] and bias [16], for pictures in 0..1 and stride 8.
    """
    sample = as_input(pictures[:: max(1, len(pictures) // 4000)])
    patches = F.unfold(sample, PATCH, stride=PATCH).movedim(1, 2).reshape(-1, 3 * PATCH * PATCH)
    mean = patches.mean(dim=0)
    variance, directions = torch.linalg.eigh(torch.cov(patches.T))
    weight = directions[:, -LATENT_CHANNELS:].flip(1) / variance[-LATENT_CHANNELS:].flip(0).sqrt()
    return weight.T.reshape(-1, 3, PATCH, PATCH).contiguous(), -(mean @ weight)


def texture(pictures: torch.Tensor) -> torch.Tensor:
    """How much neighbouring pixels differ, down and across, averaged over 4 x 4 cells: [n, 6, 15, 15]."""
    down = pictures.diff(dim=2)[..., :-1].abs()
    across = pictures.diff(dim=3)[:, :, :-1].abs()
    return F.avg_pool2d(torch.cat([down, across], dim=1), 4)


def build_autoencoder() -> torch.nn.Module:
    """ComfyUI's TAESD, with fresh weights."""
    import comfy.taesd.taesd

    torch.manual_seed(1)
    model = initialise(comfy.taesd.taesd.TAESD(latent_channels=LATENT_CHANNELS))
    model.vae_scale.requires_grad_(False)
    model.vae_shift.requires_grad_(False)
    return model


def train_autoencoder(
    work: Path, model: torch.nn.Module, pictures: torch.Tensor, encode: Callable, decoder_steps: int, encoder_steps: int
) -> None:
    """The decoder learns to draw what noisy latents mean, the encoder to repeat the linear one.

    Latents do not tell where each line of a hatching runs; the texture's loss wants lines there all the same.
    """
    model.to(memory_format=torch.channels_last)

    def batch_of(generator, size):
        inputs = as_input(pictures[torch.randint(len(pictures), (size,), generator=generator)])
        return inputs, encode(inputs)

    def decoder_loss(step, generator):
        inputs, latents = batch_of(generator, 16)
        noise = torch.rand((len(inputs), 1, 1, 1), generator=generator) * 0.25
        with bf16():
            drawn = model.taesd_decoder(latents + noise * torch.randn(latents.shape, generator=generator)).float()
        return F.l1_loss(drawn, inputs) + F.mse_loss(drawn, inputs) + F.l1_loss(texture(drawn), texture(inputs))

    def encoder_loss(step, generator):
        inputs, latents = batch_of(generator, 16)
        with bf16():
            return F.mse_loss(model.taesd_encoder(inputs).float(), latents)

    fit("decoder", work, {"decoder": model.taesd_decoder}, decoder_loss, decoder_steps, 1e-3, ema=0.999)
    fit("encoder", work, {"encoder": model.taesd_encoder}, encoder_loss, encoder_steps, 1e-3, ema=0.999)
    model.eval()
