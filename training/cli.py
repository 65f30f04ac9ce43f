"""The command sae-eraser."""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from ..sae_ops.file import read_header
from .build import build_sae
from .cache import Cache
from .trainer import TrainingConfig


def main(arguments: list[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="sae-eraser", description="Trains SAEs that erase concepts in ComfyUI.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    defaults = TrainingConfig()

    train = commands.add_parser("train", help="make an SAE file of a cache written by Collect Activations")
    train.set_defaults(command=_train)
    train.add_argument("cache", type=Path, help="folder of the cache")
    train.add_argument(
        "--out", type=Path, required=True, help="the SAE file to write, e.g. models/sae/mine.safetensors"
    )
    train.add_argument("--hookpoint", help="which hookpoint of the cache; needed if it holds several")
    train.add_argument("--groups", nargs="+", help="which groups of labels become concepts (default: all)")
    train.add_argument("--latents", type=int, help="number of latents (default: 16 times the width)")
    train.add_argument("--k", type=int, default=32, help="latents kept for each vector (default: %(default)s)")
    train.add_argument(
        "--activation", choices=("batchtopk", "topk", "relu"), default="batchtopk", help="default: %(default)s"
    )
    train.add_argument(
        "--unsupervised-steps", type=int, default=defaults.unsupervised_steps, help="default: %(default)s"
    )
    train.add_argument("--supervised-steps", type=int, default=defaults.supervised_steps, help="default: %(default)s")
    train.add_argument("--seed", type=int, default=defaults.seed, help="default: %(default)s")

    info = commands.add_parser("info", help="show what is in an SAE file")
    info.set_defaults(command=_info)
    info.add_argument("file", type=Path)

    options = parser.parse_args(arguments)
    try:
        options.command(options)
    except (ValueError, OSError) as error:
        print(f"sae-eraser: {error}", file=sys.stderr)
        return 1
    return 0


def _train(options: argparse.Namespace) -> None:
    cache = Cache(options.cache)
    hookpoints = cache.settings.hookpoints
    if options.hookpoint is None and len(hookpoints) > 1:
        raise ValueError(f"The cache holds several hookpoints. Choose one with --hookpoint: {', '.join(hookpoints)}")
    hookpoint = options.hookpoint or next(iter(hookpoints))
    config = TrainingConfig(
        unsupervised_steps=options.unsupervised_steps, supervised_steps=options.supervised_steps, seed=options.seed
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)  # fails before the training rather than after it
    bars: dict[str, tqdm] = {}

    def progress(phase: str, steps: int, numbers: dict[str, float]) -> None:
        if phase not in bars:
            bars[phase] = tqdm(total=steps, desc=phase)
        bar = bars[phase]
        bar.set_postfix({name: f"{value:.4g}" for name, value in numbers.items() if name != "step"}, refresh=False)
        bar.update()
        if numbers["step"] == steps:
            bar.close()

    build_sae(
        cache,
        hookpoint,
        options.out,
        groups=options.groups,
        n_latents=options.latents or 16 * hookpoints.get(hookpoint, 0),
        k=options.k,
        activation=options.activation,
        config=config,
        progress=progress,
    )
    _info(argparse.Namespace(file=options.out))


def _info(options: argparse.Namespace) -> None:
    header = read_header(options.file)
    sae = header.autoencoder
    print(f"{options.file}: {header.model_family}, {header.hookpoint} ({header.hooked})")
    print(f"{sae.n_latents} latents of width {sae.d_in}, {sae.activation}, k = {sae.k}")
    for name, value in header.training.get("validation", {}).items():
        print(f"{name}: {value}")
    for concept in header.concepts:
        accuracy = concept.facts.get("balanced_accuracy")
        latents = ", ".join(map(str, concept.latents))
        print(
            f"  {concept.group}: {concept.name:<12} latent {latents:<6} x {concept.multiplier:g}, accuracy {accuracy}"
        )
