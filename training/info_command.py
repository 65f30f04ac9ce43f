"""`sae-eraser info`: what is in an SAE file."""

from pathlib import Path

from ..sae_ops.file import SAEHeader, is_sae_file, read_header
from ..sae_ops.formats import read_foreign, recognise


def add_command(commands) -> None:
    """Adds `info` to the subcommands of argparse."""
    info = commands.add_parser("info", help="show what is in an SAE file, or in another tool's")
    info.set_defaults(command=lambda options: show(options.file))
    info.add_argument("file", type=Path)


def show(path: Path) -> None:
    """Prints hookpoint, size, quality and concepts. Raises SAEFileError."""
    header = _header(path)
    sae = header.autoencoder
    place = f"{header.model_family or 'unknown model'}, {header.hookpoint or 'unknown hookpoint'}"
    print(f"{path}: {place} ({header.hooked})")
    print(f"{sae.n_latents} latents of width {sae.d_in}, {sae.activation}, k = {sae.k}")
    if not sae.is_editable:
        print(f"cannot erase: {sae.activation} with input norm {sae.input_norm} is not supported in edits")
    for name, value in header.training.get("validation", {}).items():
        print(f"{name}: {value}")
    for concept in header.concepts:
        latents = ", ".join(map(str, concept.latents))
        accuracy = concept.facts.get("balanced_accuracy")
        measured = f", accuracy {accuracy}" if accuracy is not None else ""
        print(f"  {concept.group}: {concept.name:<12} latent {latents:<6} x {concept.multiplier:g}{measured}")


def _header(path: Path) -> SAEHeader:
    """Another tool's is read whole, as its size stands in its weights."""
    if is_sae_file(path) or not (path.is_dir() or recognise(path)):
        return read_header(path)
    foreign = read_foreign(path)
    print(f"{foreign.format}, to be imported with: sae-eraser import {path} --out FILE")
    return foreign.header
