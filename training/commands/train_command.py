"""`sae-eraser train`: an SAE file, or several, out of a cache."""

import argparse
import contextlib
import itertools
import math
import os
from pathlib import Path

import torch
from tqdm import tqdm

from ...sae_ops.autoencoder import SAEConfig
from ...sae_ops.description import describe_file
from ...sae_ops.sae_file import read_header
from .. import distributed
from ..build import build_saes
from ..cache.reader import Cache
from ..comfyui.node_options import option_of
from ..config import DEFAULT_K
from ..finish import Made, is_made
from ..plan import Order, plan_training
from ..recommend import recommendation
from ..report import write_report
from . import tensorboard
from .out_file import check_out
from .train_options import add_options, training_config
from .train_progress import CHECK, PROGRESS, TrainProgress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describes `train` and adds the options it takes."""
    parser.description = (
        "Trains an SAE, or several in one pass, on a cache of activations, and writes a file of each, in "
        "which every concept has latents of its own. Run again after a stop, it goes on at its last checkpoint."
    )
    add_options(parser)


def run(options: argparse.Namespace) -> None:
    """Writes the SAE files and a page of their training. Raises ValueError, also after Ctrl-C; OSError."""
    distributed.start()
    speaks = distributed.rank() == 0
    try:
        made = _train(options, speaks)
    except RuntimeError as error:
        on_gpu = isinstance(error, torch.OutOfMemoryError)
        if not on_gpu and "DefaultCPUAllocator" not in str(error):  # torch has no class of its own for that
            raise
        raise ValueError(
            f"The {'GPU' if on_gpu else 'computer'} has too little memory ({error}). Lower --vectors and --maps, or "
            "--latents, and pass --restart."
        ) from error
    except KeyboardInterrupt:
        raise ValueError("Stopped. Run the same command again: it goes on at its last checkpoint.") from None
    finally:
        distributed.stop()
    if speaks:
        try:
            _report(options, made)
        except KeyboardInterrupt:
            raise ValueError(f"Stopped. {options.out} is made, but what shows how it was trained is not.") from None
        except OSError as error:
            reason = error.__cause__ or error  # without the advice to run the same again, which would replace the SAE
            raise ValueError(f"{options.out} is made, but what shows how it was trained is not ({reason}).") from error


def _train(options: argparse.Namespace, speaks: bool) -> list[Made]:
    cache = Cache(options.cache, options.skip_bad_shards)
    orders = _orders(options, cache)
    plan = plan_training(cache, orders, training_config(options), groups=options.groups, extend=options.extend)
    out = Path(os.path.abspath(options.out))  # a name even of "."
    checkpoint_folder = out.with_name(out.name.removesuffix(".safetensors") + ".training")
    for order in orders:  # some may be written by a training that was stopped before it had written all
        check_out(order.out, options.overwrite or (checkpoint_folder.is_dir() and is_made(plan, order)))
    if not 0 < options.memory < math.inf:
        raise ValueError(f"--memory is {options.memory}, but must be a number above 0.")
    if options.tensorboard:
        tensorboard.make_folder(options.tensorboard)
    with contextlib.closing(PROGRESS[options.progress](speaks)) as progress:
        _verify(cache, progress, speaks)
        return build_saes(
            plan,
            memory=int(options.memory * 2**30),
            checkpoint_folder=checkpoint_folder,
            checkpoint_seconds=60 * options.checkpoint_minutes,
            restart=options.restart,
            progress=progress.show,
        )


def _report(options: argparse.Namespace, made: list[Made]) -> None:
    for sae in made:
        print(describe_file(sae.out))
    if best := recommendation(made):
        print(best)
    page = options.out.with_suffix(".html") if len(made) == 1 else options.out / "training.html"
    print(write_report(page, made))
    if options.tensorboard:
        tensorboard.write_curves(options.tensorboard, made)


def _orders(options: argparse.Namespace, cache: Cache) -> list[Order]:
    """Every combination of hookpoint, number of latents and k."""
    offered = cache.settings.hookpoints
    if options.extend:
        return [_extension(options)]
    if not options.hookpoint and len(offered) > 1:
        raise ValueError(f"The cache holds several hookpoints. Choose with --hookpoint: {', '.join(offered)}")
    found: dict[tuple[str, SAEConfig], None] = {}
    for point in options.hookpoint or offered:
        width = cache.shape(point)[-1]
        for latents, k in itertools.product(options.latents or [16 * width], options.k or [DEFAULT_K]):
            found[point, SAEConfig(width, latents, options.activation or "batchtopk", k)] = None
    if len(found) == 1:
        return [Order(point, sae, options.out) for point, sae in found]
    if options.out.suffix == ".safetensors":
        raise ValueError(f"This makes {len(found)} SAEs, so --out must name a folder, not {options.out}.")
    return [Order(point, sae, options.out / f"{point}-n{sae.n_latents}-k{sae.k}.safetensors") for point, sae in found]


def _extension(options: argparse.Namespace) -> Order:
    header = read_header(options.extend)
    given = [name for name in ("latents", "k", "activation") if getattr(options, name) is not None]
    if given:
        raise ValueError(f"--extend keeps the SAE as it is; leave out {', '.join(map(option_of, given))}.")
    if options.hookpoint not in (None, [header.hookpoint]):
        raise ValueError(f"The SAE to extend belongs to {header.hookpoint}, not to {', '.join(options.hookpoint)}.")
    return Order(header.hookpoint, header.autoencoder, options.out)


def _verify(cache: Cache, progress: TrainProgress, speaks: bool) -> None:
    """Every process does it, so that all leave out the same shards."""
    total, done = cache.bytes, 0
    for size in cache.verify():
        done += size
        progress.show(CHECK, done, total, {})
    progress.close()
    if cache.bad_shards and speaks:
        tqdm.write(f"Training without {len(cache.bad_shards)} bad shards: {', '.join(cache.bad_shards)}")
