"""A LoRA of the small world, trained after its SAEs: a style it has not seen, neon as a negative.

Half of what it is trained on are ordinary pictures, so that it forgets little of what the world draws.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import comfy.sd
import numpy as np
import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from comfy.utils import load_torch_file
from safetensors.torch import save_file

from sae_eraser.nodes.sample.prompt_batch import encode_prompts
from sae_eraser.sae_ops.atomic_write import write_atomically
from shapecanvas.concepts import OBJECTS, STYLES, pair_prompt
from shapecanvas.drawing import draw
from shapecanvas.world import World

from .noise_prediction import differentiable, encoded, levels_of_noise, load, noise_error

STYLE = "negative"
RANK, BATCH, LEARNING_RATE = 4, 48, 2e-3
DRAWN_SEED = 32_000_000


def prompt(object_name: str) -> str:
    return pair_prompt(object_name, STYLE)


def negative(object_name: str, seed: int) -> np.ndarray:
    """uint8 [64, 64, 3]: black lines and a dark glow on a white page. The judge knows all objects in it."""
    return 255 - draw(object_name, "neon", seed)


def with_lora(model: ModelPatcher, path: Path) -> ModelPatcher:
    """As ComfyUI's node LoraLoaderModelOnly does at strength 1."""
    patched, _ = comfy.sd.load_lora_for_models(model, None, load_torch_file(str(path), safe_load=True), 1.0, 0.0)
    return patched


def train_lora(world: World, path: Path, steps: int = 300, per_object: int = 24) -> list[float]:
    """Writes a LoRA of rank 4 on all attention of the UNet, made with every object; returns the losses."""
    new = [(prompt(name), negative(name, DRAWN_SEED + i)) for name in OBJECTS for i in range(per_object)]
    pairs = [(o, s) for o in OBJECTS for s in STYLES] * (len(new) // (len(OBJECTS) * len(STYLES)) + 1)
    old = [(pair_prompt(o, s), draw(o, s, DRAWN_SEED + i)) for i, (o, s) in enumerate(pairs[: len(new)])]
    words, drawings = zip(*new, *old, strict=True)
    latents = encoded(world, np.stack(drawings))
    conds = encode_prompts(world.clip, list(words))[0][0].detach()
    model, generator = world.model, torch.Generator().manual_seed(0)
    load(model)
    layers = attention_layers(model.model.diffusion_model)
    factors = {name: _factors(layer, generator) for name, layer in layers.items()}
    adam = torch.optim.Adam([factor for pair in factors.values() for factor in pair], lr=LEARNING_RATE)
    losses = []
    for _ in range(steps):
        batch = torch.randint(len(latents), (BATCH,), generator=generator)
        noise = torch.randn(latents[batch].shape, generator=generator)
        sigma = levels_of_noise(model, BATCH, 1, generator)
        with differentiable(), added(layers, factors):
            loss = noise_error(model, latents[batch], conds[batch], sigma, noise).mean()
            adam.zero_grad()
            loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    tensors = {}
    for name, (down, up) in factors.items():
        tensors[f"diffusion_model.{name}.lora_down.weight"] = down.detach()
        tensors[f"diffusion_model.{name}.lora_up.weight"] = up.detach()
    write_atomically(path, lambda part: save_file(tensors, part))
    return losses


def attention_layers(unet: torch.nn.Module) -> dict[str, torch.nn.Module]:
    ends = ("to_q", "to_k", "to_v", "to_out.0")
    return {name: layer for name, layer in unet.named_modules() if ".attn" in name and name.endswith(ends)}


def _factors(layer: torch.nn.Module, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = layer.weight.shape
    down = torch.randn(RANK, columns, generator=generator) / columns**0.5
    return down.requires_grad_(True), torch.zeros(rows, RANK, requires_grad=True)


@contextmanager
def added(layers: dict, factors: dict) -> Iterator[None]:
    """Within it the layers give up(down(x)) more than they do."""

    def hook(pair):
        down, up = pair
        return lambda layer, inputs, output: output + F.linear(F.linear(inputs[0].float(), down), up).to(output)

    handles = [layer.register_forward_hook(hook(factors[name])) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
