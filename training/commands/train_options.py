"""The options of `sae-eraser train`, most of which are fields of TrainingConfig."""

import argparse
from pathlib import Path

from ...sae_ops.sae_file import TRAINED_BRANCHES
from ..comfyui.node_options import option_of
from ..config import ASSIGNMENTS, DEFAULT_K, PRECISIONS, TrainingConfig
from ..look_alikes import NEARLY_ALL_WITHOUT
from .train_progress import PROGRESS

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
    "that the sum of the scores of each concept's first latent is largest",
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
    "spare_look_alikes": "edit a picture from the step on in which it shows more of the concept than "
    f"{100 * NEARLY_ALL_WITHOUT:g} %% of the pictures of each other concept (default: edit every picture in which the "
    "concept fires)",
    "seed": "seed of all random choices",
}
"""The fields of TrainingConfig that the command line offers."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds all of them, with their defaults."""
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
        _add_field(parser, name, text)
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


def training_config(options: argparse.Namespace) -> TrainingConfig:
    """What the options make of its fields. Raises ValueError for numbers that it cannot have."""
    return TrainingConfig(**{name: getattr(options, name) for name in OPTIONS})


def _add_field(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    """An option for a field of TrainingConfig, with its default."""
    default, option = getattr(TrainingConfig, name), option_of(name)
    if default is False:
        parser.add_argument(option, action="store_true", help=text)
        return
    shown = text if default is None else f"{text} (default: {default})"
    kind = KINDS[name] if default is None else type(default)
    parser.add_argument(option, type=kind, choices=CHOICES.get(name), default=default, help=shown)
