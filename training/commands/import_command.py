"""`sae-eraser import`: another tool's SAE as an SAE file of ours."""

import argparse
import re
from dataclasses import replace
from pathlib import Path

from ...sae_ops.description import describe_file
from ...sae_ops.formats import known_formats, no_statistics, read_foreign
from ...sae_ops.formats.checkpoint import WEIGHT_SUFFIXES
from ...sae_ops.hookpoints import is_hookpoint_name
from ...sae_ops.reasons import reason_of
from ...sae_ops.sae_file import HOOKED_TENSORS, SAEHeader, is_sae_file, save_sae
from ...sae_ops.text_hookpoints import is_text_hookpoint_name
from ..concept_tables import Settings, concepts_of_table, read_settings
from ..model_families import MODEL_FAMILIES, other_spelling_of
from .out_file import check_out

REPOSITORY_ID = re.compile(r"[^\W_][\w.-]*/[^\W_][\w.-]*(?:/[\w./-]+)?")
"""Of Hugging Face, with or without a folder or file in it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describes `import` and adds the options it takes."""
    parser.description = (
        "Makes an SAE file of another tool's SAE, whose format is recognised by what is in its files. "
        "Pickles are read without running anything in them. Without --concepts the SAE can be looked at, but erases "
        "nothing."
    )
    parser.add_argument(
        "path",
        help="file, folder, or repository on Hugging Face (owner/name, or a folder or a file in it), in one of the "
        f"formats {', '.join(known_formats())}",
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write, e.g. models/sae/mine.safetensors")
    parser.add_argument(
        "--hookpoint", help="block it was trained on, e.g. up_blocks.1.attentions.1 (default: as the files say)"
    )
    parser.add_argument(
        "--model-family",
        help="ComfyUI's name of the models it was trained on, e.g. SD15 or SDXL (default: as the files say)",
    )
    parser.add_argument(
        "--hooked",
        choices=HOOKED_TENSORS,
        help="what it reads: the block's output, or residual, output minus input (default: as the files say, or "
        "else as that tool has it)",
    )
    parser.add_argument("--k", type=int, help="latents kept for each vector, where the files do not say")
    parser.add_argument(
        "--threshold", type=float, help="what latents must exceed, where the files do not say; 0 keeps what is positive"
    )
    parser.add_argument(
        "--concepts", type=Path, metavar="FILE", help="SAeUron's table of its concepts, cls_latents_dict_....pkl"
    )
    parser.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="SAeUron's percentile and multiplier of each concept, class_params.pth",
    )
    parser.add_argument("--group", default="object", help="kind of concepts that these are (default: %(default)s)")
    parser.add_argument(
        "--percentile",
        type=float,
        default=Settings.percentile,
        help="percentile of all scores above which a latent carries a concept that has no settings "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--multiplier",
        type=float,
        default=Settings.multiplier,
        help="how strongly the edit pushes a concept away that has no settings (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --out if it exists")


def run(options: argparse.Namespace) -> None:
    """Writes the SAE file and prints what is in it. Raises ValueError; OSError."""
    # .part: of the node, which compares it and throws it away
    check_out(options.out, options.overwrite, (".safetensors", ".part"))
    if options.settings and not options.concepts:
        raise ValueError("--settings are of concepts; pass their table as well, with --concepts.")
    default = Settings(options.percentile, options.multiplier)
    _check_place(options)
    path = _local(options.path)
    if is_sae_file(path):
        raise ValueError(f"{path} is an SAE file already. Put it into ComfyUI's models/sae.")
    given = {name: getattr(options, name) for name in ("k", "threshold") if getattr(options, name) is not None}
    foreign = read_foreign(path, given)
    training = {"imported": {"format": foreign.format, "file": foreign.file}}
    header = replace(_placed(foreign.header, options, foreign.format), training=training)
    statistics = no_statistics()
    if options.concepts:
        settings = read_settings(options.settings) if options.settings else {}
        concepts, statistics = concepts_of_table(
            options.concepts, header.autoencoder.n_latents, options.group, settings, default
        )
        header = replace(header, concepts=concepts)
    save_sae(options.out, foreign.autoencoder, header, statistics)
    print(describe_file(options.out))
    if options.model_family and header.model_family not in MODEL_FAMILIES:
        print(
            f"Note: the model family {header.model_family} is not known here. The SAE is of use only for models that "
            "ComfyUI itself calls so; the node Import SAE lists all its names."
        )


def _check_place(options: argparse.Namespace) -> None:
    """Raises ValueError if no model can have this hookpoint, or if ComfyUI calls the model family otherwise."""
    point, family = options.hookpoint, options.model_family
    if point and not is_hookpoint_name(point) and not is_text_hookpoint_name(point):
        raise ValueError(
            f"No model has a hookpoint '{point}'. Pass --hookpoint as diffusers names blocks, e.g. "
            "up_blocks.1.attentions.1, mid_block.attentions.0, transformer_blocks.5 or "
            "text_encoder.text_model.encoder.layers.8, or a module path of ComfyUI's model, e.g. output_blocks.4.1."
        )
    if family and (known := other_spelling_of(family)):
        raise ValueError(f"ComfyUI calls the model family '{family}' {known}. Pass --model-family {known}.")


def _placed(header: SAEHeader, options: argparse.Namespace, name: str) -> SAEHeader:
    """The header with hookpoint and model family, told by the user or by the files."""
    hookpoint = (options.hookpoint or header.hookpoint).removeprefix("unet.")
    family = options.model_family or header.model_family
    for value, option, example in (
        (hookpoint, "--hookpoint", "up_blocks.1.attentions.1"),
        (family, "--model-family", "SD15"),
    ):
        if not value:
            raise ValueError(
                f"{options.path} ({name}) does not say where in which model it belongs. Pass {option}, e.g. {example}."
            )
    return replace(header, hookpoint=hookpoint, model_family=family, hooked=options.hooked or header.hooked)


def _local(path: str) -> Path:
    """The path itself, or where a repository of this name was downloaded to. Raises ValueError.

    A name in a folder that is here is not looked up: it is mistyped.
    """
    if Path(path).exists() or Path(path).parent.is_dir() or not REPOSITORY_ID.fullmatch(path):
        return Path(path)
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            f"{path} does not exist here; to download it from Hugging Face: pip install huggingface_hub"
        ) from error
    owner, name, *inner = path.rstrip("/").split("/")
    file = [inner.pop()] if inner and inner[-1].endswith(WEIGHT_SUFFIXES) else []
    below = "".join(f"{folder}/" for folder in inner)
    weights = file or [f"*{suffix}" for suffix in WEIGHT_SUFFIXES]
    wanted = [below + pattern for pattern in (*weights, "*.json")]
    try:
        folder = huggingface_hub.snapshot_download(f"{owner}/{name}", allow_patterns=wanted)
    except Exception as error:  # a download that breaks off has the errors of whatever library it went through
        reason = reason_of(error)
        raise ValueError(
            f"{path} does not exist here, and Hugging Face does not give it ({reason}). Check the name and the network."
        ) from error
    return Path(folder, *inner, *file)
