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
from ...sae_ops.file import TRAINED_BRANCHES, read_header
from .. import distributed
from ..build import build_saes
from ..cache.reader import Cache
from ..config import ASSIGNMENTS, PRECISIONS, TrainingConfig
from ..finish import Made
from ..look_alikes import NEARLY_ALL_WITH, NEARLY_ALL_WITHOUT
from ..plan import Order, plan_training
from ..recommend import recommendation
from ..report import write_report
from .out_file import check_out
from .train_progress import CHECK, PROGRESS, TrainProgress

DEFAULT_K = 32
CHOICES = {"precision": PRECISIONS, "assignment": ASSIGNMENTS, "branch": TRAINED_BRANCHES}
KINDS = {"learning_rate": float, "precision": str, "concept_latents": int}
OPTIONS = {
    "unsupervised_steps": "steps of the first phase, which learns to reconstruct activations and which --extend leaves "
    "out; 0: reconstruction and concepts are learned together, from random latents",
    "supervised_steps": "steps of the second phase, which binds each concept to its latents; 0: each concept gets "
    "those that tell it best",
    "vectors": "activation vectors in each step of the first phase",
    "maps": "maps (one picture at one noise level) in each step of the second phase",
    "learning_rate": "learning rate of Adam (default: 2e-4 / sqrt(latents / 2^14))",
    "precision": "precision of the encoder's product (default: bf16 if this machine is fast at it, else fp32)",
    "assignment": "how latents are given to concepts: greedy, the best score of all first, then the next; optimal, so "
    "that the sum of all scores is largest",
    "concept_latents": "latents for each concept: its own and those that carry the rest of it (default: 24, or 8 with "
    "--branch uncond)",
    "concept_weight": "weight of the concept loss, beside 1 for the reconstruction",
    "decorrelation_weight": "weight, within the concept loss, of what keeps concepts from firing together",
    "silence_weight": "weight, within the concept loss, of what keeps latents from firing in pictures without their "
    "concept",
    "guidance_weight": "weight of the guidance loss, by which latents learn what a concept's name brings; it is used "
    "if the cache holds both halves of guidance",
    "dead_after": "number of vectors without firing after which a latent counts as dead and is revived",
    "patience": "number of validations without an improvement after which a phase ends",
    "statistics_vectors": "activation vectors from which scores, statistics and strengths are computed",
    "branch": "half of guidance to learn from: cond, what prompts ask for, to erase it; uncond, what is drawn, to "
    "watch it",
    "spare_look_alikes": "edit a picture only if it shows more of the concept than "
    f"{100 * NEARLY_ALL_WITHOUT:g} %% of the pictures of each other concept, or reaches what {100 * NEARLY_ALL_WITH:g} "
    "%% of its own reach (default: edit every picture in which the concept fires)",
    "seed": "seed of all random choices",
}
"""The fields of TrainingConfig that the command line offers."""


def add_command(commands) -> argparse.ArgumentParser:
    """Adds `train` to the subcommands of argparse; returns its parser."""
    parser = commands.add_parser(
        "train",
        help="make SAE files of a cache written by Collect Activations",
        description="Trains an SAE, or several in one pass, on a cache of activations, and writes a file of each, in "
        "which every concept has latents of its own. Run again after a stop, it goes on at its last checkpoint.",
    )
    parser.add_argument("cache", type=Path, help="folder of the cache, as Collect Activations has written it")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="file to write, e.g. models/sae/mine.safetensors; a folder if several SAEs are trained",
    )
    parser.add_argument(
        "--hookpoint",
        nargs="+",
        help="hookpoints of the cache to train on, an SAE for each; needed if the cache holds several",
    )
    parser.add_argument(
        "--groups", nargs="+", action="extend", help="groups of labels that become concepts (default: all)"
    )
    parser.add_argument(
        "--latents",
        type=int,
        nargs="+",
        help="number of latents, or several for an SAE each (default: 16 times the width of the hookpoint)",
    )
    parser.add_argument(
        "--k",
        type=int,
        nargs="+",
        help=f"latents kept for each vector, or several numbers for an SAE each (default: {DEFAULT_K})",
    )
    parser.add_argument(
        "--activation",
        choices=("batchtopk", "topk"),
        help="which latents are kept: batchtopk, k for each vector on average, by one threshold for all; topk, the k "
        "largest of every vector (default: batchtopk)",
    )
    parser.add_argument(
        "--extend",
        type=Path,
        metavar="FILE",
        help="SAE file to add the cache's other concepts to, without changing its other latents; with topk the new "
        "latents take places among the k",
    )
    for name, text in OPTIONS.items():
        default, option = getattr(TrainingConfig, name), "--" + name.replace("_", "-")
        if default is False:
            parser.add_argument(option, action="store_true", help=text)
            continue
        shown = text if default is None else f"{text} (default: {default})"
        kind = KINDS[name] if default is None else type(default)
        parser.add_argument(option, type=kind, choices=CHOICES.get(name), default=default, help=shown)
    parser.add_argument(
        "--memory", type=float, default=1.0, help="activations held in memory at once, in GB (default: 1)"
    )
    parser.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=2.0,
        help="minutes between checkpoints: a stop loses at most so many (default: 2)",
    )
    parser.add_argument(
        "--restart", action="store_true", help="forget an unfinished training of the same --out and begin anew"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --out if it exists")
    parser.add_argument(
        "--skip-bad-shards",
        action="store_true",
        help="train without the shards of the cache that are missing or damaged",
    )
    parser.add_argument(
        "--progress",
        choices=PROGRESS,
        default="bars",
        help="how progress is shown: bars, for people; json, lines of JSON on stdout, for programs (default: bars)",
    )
    parser.add_argument(
        "--tensorboard", type=Path, metavar="FOLDER", help="folder to write curves to as well, for TensorBoard"
    )
    return parser


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


def _train(options: argparse.Namespace, speaks: bool) -> list[Made]:
    cache = Cache(options.cache, options.skip_bad_shards)
    orders = _orders(options, cache)
    config = TrainingConfig(**{name: getattr(options, name) for name in OPTIONS})
    plan = plan_training(cache, orders, config, groups=options.groups, extend=options.extend)
    for order in orders:
        check_out(order.out, options.overwrite)
    if not 0 < options.memory < math.inf:
        raise ValueError(f"--memory is {options.memory}, but must be a number above 0.")
    out = Path(os.path.abspath(options.out))  # a name even of "."
    if options.tensorboard:
        _summary_writer()
        options.tensorboard.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(PROGRESS[options.progress](speaks)) as progress:
        _verify(cache, progress, speaks)
        return build_saes(
            plan,
            memory=int(options.memory * 2**30),
            checkpoints=out.with_name(out.name.removesuffix(".safetensors") + ".training"),
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
        _write_tensorboard(options.tensorboard, made)


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
        raise ValueError(f"--extend keeps the SAE as it is; leave out {', '.join('--' + name for name in given)}.")
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


def _summary_writer() -> type:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("--tensorboard needs a package: pip install tensorboard") from error
    return SummaryWriter


def _write_tensorboard(folder: Path, made: list[Made]) -> None:
    for sae in made:
        with _summary_writer()(str(folder / sae.out.stem)) as writer:
            for entry in sae.track.history:
                for name, value in entry["validation"].items():
                    writer.add_scalar(f"{entry['phase']}/validation {name}", value, entry["step"])
                for name in entry.keys() - {"phase", "step", "validation"}:
                    writer.add_scalar(f"{entry['phase']}/{name}", entry[name], entry["step"])
