"""Trains ShapeCanvas: pictures, classifier, autoencoder, diffusion model; writes the weights of worlds.py.

    PYTHONPATH=tests:.comfyui python -m shapecanvas.train --work output/shapecanvas

Every stage goes on where it was stopped; with the same seed and machine the result is the same.
"""

import argparse
import math
import multiprocessing
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from checkout import import_root

from .classifier import Classifier
from .concepts import OBJECTS, STYLES, training_prompt
from .drawing import draw
from .worlds import CHECKPOINT, CLASSIFIER

PAIRS = [(name, style) for name in OBJECTS for style in STYLES]
LATENT_CHANNELS, PATCH = 16, 8
UNET, TEXT_ENCODER, AUTOENCODER = "model.diffusion_model.", "cond_stage_model.clip_l.transformer.", "first_stage_model."
"""What names in a checkpoint begin with."""


# ---------------------------------------------------------------------------------------------- pictures


def _draw_pair(task):
    (name, style), seeds = task
    return np.stack([draw(name, style, seed) for seed in seeds])


def load_pictures(work: Path, per_pair: int, first_seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """uint8 pictures [pairs * per_pair, 64, 64, 3] with object and style indices; drawn once, then read from disk."""
    path = work / f"pictures_{first_seed}_{per_pair}.npy"
    if not path.exists():
        tasks = [
            (pair, range(first_seed + i * per_pair, first_seed + (i + 1) * per_pair)) for i, pair in enumerate(PAIRS)
        ]
        with multiprocessing.Pool() as pool:
            drawn = list(tqdm(pool.imap(_draw_pair, tasks), total=len(tasks), desc="drawing"))
        with open(path.with_suffix(".part"), "wb") as file:
            np.save(file, np.concatenate(drawn))
        os.replace(path.with_suffix(".part"), path)
    pictures = torch.from_numpy(np.load(path, mmap_mode="c"))
    objects = torch.arange(len(OBJECTS)).repeat_interleave(len(STYLES) * per_pair)
    styles = torch.arange(len(STYLES)).repeat_interleave(per_pair).repeat(len(OBJECTS))
    return pictures, objects, styles


def as_input(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 [n, 64, 64, 3] -> float [n, 3, 64, 64] in 0..1."""
    return pictures.movedim(-1, 1).float() / 255


# -------------------------------------------------------------------------------------------- the loop


def save_atomically(save: Callable, content, path: Path) -> None:
    part = path.with_suffix(".part")
    save(content, part)
    os.replace(part, path)


def fit(
    name: str,
    work: Path,
    modules: dict[str, torch.nn.Module],
    loss_of: Callable[[int, torch.Generator], torch.Tensor],
    steps: int,
    learning_rate: float,
    ema: float = 0.0,
) -> None:
    """Minimises loss_of(step, generator) over all parameters of the modules and leaves their (averaged) weights in.

    Adam, gradient clip 1.0, the learning rate held for half the steps and then falling to 3 %. Step i draws from a
    generator seeded with i, so a run that was stopped goes on as if it had not been.
    """
    path = work / f"{name}.pt"
    container = torch.nn.ModuleDict(modules)
    parameters = list(container.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, fused=True)
    average = [p.detach().clone() for p in parameters] if ema else []
    start, smooth = 0, None
    if path.exists():
        state = torch.load(path, weights_only=True)
        start, average, smooth = state["step"], state["average"], state["loss"]
        container.load_state_dict(state["modules"])
        optimizer.load_state_dict(state["optimizer"])

    def save(step):
        state = {"step": step, "modules": container.state_dict(), "optimizer": optimizer.state_dict()}
        save_atomically(torch.save, {**state, "average": average, "loss": smooth}, path)

    container.train()
    progress = tqdm(range(start, steps), initial=start, total=steps, desc=name, mininterval=5)
    for step in progress:
        after_half = max(0.0, step / steps - 0.5) * 2
        optimizer.param_groups[0]["lr"] = learning_rate * (0.03 + 0.97 * (1 + math.cos(math.pi * after_half)) / 2)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(step, torch.Generator().manual_seed(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if ema:
            with torch.no_grad():
                torch._foreach_lerp_(average, parameters, 1 - min(ema, (step + 1) / (step + 10)))
        smooth = loss.item() if smooth is None else 0.99 * smooth + 0.01 * loss.item()
        progress.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        if (step + 1) % 250 == 0 or step + 1 == steps:
            save(step + 1)
    if ema:
        with torch.no_grad():
            for parameter, mean in zip(parameters, average, strict=True):
                parameter.copy_(mean)
    container.eval()


def bf16():
    """Where the processor is fast at it; one that is not takes many times as long."""
    from sae_eraser.sae_ops.bf16 import is_fast_at_bf16

    return torch.autocast("cpu", torch.bfloat16, enabled=is_fast_at_bf16(torch.device("cpu")))


def initialise(module: torch.nn.Module) -> torch.nn.Module:
    """torch's own initialisation for the layers of ComfyUI, which leaves its weights empty."""
    for layer in module.modules():
        for kind in (torch.nn.Linear, torch.nn.Conv2d, torch.nn.GroupNorm, torch.nn.LayerNorm, torch.nn.Embedding):
            if isinstance(layer, kind):
                kind.reset_parameters(layer)
    return module.requires_grad_(True)


# ------------------------------------------------------------------------------------------ classifier


def train_classifier(work: Path, per_pair: int, steps: int) -> Classifier:
    pictures, objects, styles = load_pictures(work, per_pair, first_seed=0)
    torch.manual_seed(0)
    model = Classifier().to(memory_format=torch.channels_last)

    def loss_of(step, generator):
        batch = torch.randint(len(pictures), (128,), generator=generator)
        inputs = as_input(pictures[batch])
        for _ in range(step % 4):  # sampled pictures are a little softer than drawn ones
            inputs = F.avg_pool2d(inputs, 3, stride=1, padding=1, count_include_pad=False)
        noise = torch.rand((len(batch), 1, 1, 1), generator=generator) * 0.1
        inputs = inputs + noise * torch.randn(inputs.shape, generator=generator)
        with bf16():
            object_logits, style_logits = model(inputs)
        return F.cross_entropy(object_logits.float(), objects[batch]) + F.cross_entropy(
            style_logits.float(), styles[batch]
        )

    fit("classifier", work, {"model": model}, loss_of, steps, 2e-3)
    return model


@torch.inference_mode()
def accuracy(
    model: Classifier, inputs: torch.Tensor, objects: torch.Tensor, styles: torch.Tensor
) -> tuple[float, float]:
    logits = [model(chunk) for chunk in inputs.split(256)]
    right_objects = torch.cat([o.argmax(1) for o, _ in logits]) == objects
    right_styles = torch.cat([s.argmax(1) for _, s in logits]) == styles
    return right_objects.float().mean().item(), right_styles.float().mean().item()


# ----------------------------------------------------------------------------------------- autoencoder


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


# ------------------------------------------------------------------------------------- diffusion model


def build_diffusion() -> tuple[torch.nn.Module, torch.nn.Module, Callable[[str], list[int]]]:
    """ComfyUI's UNet, its CLIP text encoder and its tokenizer, with fresh weights."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    from . import extension

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


# ------------------------------------------------------------------------------------------------ main


def half(state: dict, prefix: str = "") -> dict:
    return {prefix + name: tensor.half().contiguous() for name, tensor in state.items()}


def part_of(checkpoint: dict, prefix: str) -> dict:
    return {name[len(prefix) :]: value.float() for name, value in checkpoint.items() if name.startswith(prefix)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for pictures and checkpoints (1 GB)")
    parser.add_argument("--start", type=Path, help="a checkpoint to go on from, whose autoencoder is kept")
    parser.add_argument("--per-pair", type=int, default=300, help="pictures drawn of every object x style pair")
    parser.add_argument("--diffusion-steps", type=int, default=5000)
    parser.add_argument("--decoder-steps", type=int, default=6000)
    parser.add_argument("--encoder-steps", type=int, default=1200)
    parser.add_argument("--classifier-steps", type=int, default=800)
    arguments = parser.parse_args()
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)

    from comfy.cli_args import args

    args.cpu = True
    import_root()
    torch.use_deterministic_algorithms(True)  # sums over words, for instance, are otherwise made in any order
    from comfy.ldm.modules import attention

    attention.optimized_attention = attention.attention_basic  # the fastest of ComfyUI's for 64 positions

    pictures, objects, styles = load_pictures(work, arguments.per_pair, first_seed=0)
    start = load_file(arguments.start) if arguments.start else {}
    vae = build_autoencoder().eval()
    if start:
        vae.load_state_dict(part_of(start, AUTOENCODER))

        def encode(inputs):
            with bf16(), torch.no_grad():
                return vae.taesd_encoder(inputs).float()

    else:
        weight, bias = principal_patches(pictures)

        def encode(inputs):
            return F.conv2d(inputs, weight, bias, stride=PATCH)

    chunks = tqdm(pictures.split(1024), desc="encoding")
    latents = torch.cat([encode(as_input(chunk)).half() for chunk in chunks])

    unet, text_encoder = train_diffusion(work, latents, arguments.per_pair, arguments.diffusion_steps, start)
    if not start:
        train_autoencoder(work, vae, pictures, encode, arguments.decoder_steps, arguments.encoder_steps)
    classifier = train_classifier(work, arguments.per_pair, arguments.classifier_steps)

    CHECKPOINT.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = {
        **half(unet.state_dict(), UNET),
        **half(text_encoder.transformer.state_dict(), TEXT_ENCODER),
        **half(vae.state_dict(), AUTOENCODER),
    }
    save_atomically(save_file, checkpoint, CHECKPOINT)
    save_atomically(save_file, half(classifier.state_dict()), CLASSIFIER)

    unseen, objects, styles = load_pictures(work, 20, first_seed=10_000_000)
    inputs = as_input(unseen)
    print(
        "classifier on unseen drawings: object {:.4f}, style {:.4f}".format(
            *accuracy(classifier, inputs, objects, styles)
        )
    )
    with torch.inference_mode():
        drawn = torch.cat([vae.taesd_decoder(encode(chunk)).clamp(0, 1) for chunk in inputs.split(128)])
    print(
        "... after the autoencoder:     object {:.4f}, style {:.4f}".format(
            *accuracy(classifier, drawn, objects, styles)
        )
    )


if __name__ == "__main__":
    main()
