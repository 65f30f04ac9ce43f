"""How well a patched model predicts the noise on given pictures, with gradients through its edits and its hooks."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher, create_model_options_clone

from shapecanvas.concepts import OBJECTS, STYLES
from shapecanvas.drawing import draw
from shapecanvas.world import World

from .pictures import Wanted

DRAWN_FROM = 25_000_000
"""Drawings have other seeds than the pictures that are sampled, and than the drawings the world was trained on."""


@contextmanager
def differentiable() -> Iterator[None]:
    """Within it everything has gradients: torch.no_grad has no effect, and what is written into is copied for later.

    So an edit gives the true gradient of what it computes: of z' = gamma mu z where a latent passes its gate, of x
    itself elsewhere, of the neighbour that is taken in `replace`. The gates, being steps, have none.
    """
    with (
        patch.object(torch.no_grad, "__enter__", lambda self: None),
        patch.object(torch.no_grad, "__exit__", lambda self, *raised: None),
        torch.autograd.graph.allow_mutation_on_saved_tensors(),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        yield


def drawn_latents(world: World, pictures: Wanted) -> torch.Tensor:
    """Latents [pictures, 16, 8, 8] of drawings of what is wanted, not of what the world makes of it."""
    seeds = [DRAWN_FROM + seed for seed in pictures.seeds]
    drawings = [draw(OBJECTS[o], STYLES[s], seed) for (o, s), seed in zip(pictures.pairs, seeds, strict=True)]
    return encoded(world, np.stack(drawings))


@torch.no_grad()
def encoded(world: World, drawings: np.ndarray) -> torch.Tensor:
    """Drawings uint8 [n, 64, 64, 3] -> latents [n, 16, 8, 8]."""
    return world.vae.encode(torch.from_numpy(drawings) / 255)


def levels_of_noise(model: ModelPatcher, pictures: int, of_each: int, generator: torch.Generator) -> torch.Tensor:
    """Sigmas [of_each * pictures] of random times, evenly spread over the schedule for every picture."""
    sampling = model.get_model_object("model_sampling")
    stratum = torch.arange(of_each)[:, None]
    times = (stratum + torch.rand(of_each, pictures, generator=generator)) / of_each
    return sampling.sigma(times.flatten() * (len(sampling.sigmas) - 1)).float()


def load(model: ModelPatcher) -> None:
    """What sampling does first: LoRAs into the weights, side models to their place."""
    model_management.load_models_gpu([model, *model.get_nested_additional_models()])


def noise_error(
    model: ModelPatcher, latents: torch.Tensor, cond: torch.Tensor, sigma: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """Squared error of the predicted noise [pictures], weighted as the small world was trained: 1 + sigma^2 up to 10.

    latents and noise [pictures, 16, height, width], cond [pictures, tokens, 48], sigma [pictures]. The conditional
    half of guidance alone, through all wrappers of a loaded model.
    """
    base = model.model
    options = create_model_options_clone(model.model_options)["transformer_options"]
    options = {**options, "wrappers": model.wrappers, "cond_or_uncond": [0], "sigmas": sigma}
    x = base.model_sampling.noise_scaling(sigma[:, None, None, None], noise, base.process_latent_in(latents))
    denoised = base.apply_model(x, sigma, c_crossattn=cond, transformer_options=options)
    predicted = (x - denoised) / sigma[:, None, None, None]
    return (predicted - noise).square().mean(dim=(1, 2, 3)) * (1 + sigma.square()).clamp(max=10)
