"""`sae-eraser info`: what is in an SAE file."""

from pathlib import Path

from ..sae_ops.file import read_header


def add_command(commands) -> None:
    """Adds `info` to the subcommands of argparse."""
    info = commands.add_parser("info", help="show what is in an SAE file")
    info.set_defaults(command=lambda options: show(options.file))
    info.add_argument("file", type=Path)


def show(path: Path) -> None:
    """Prints hookpoint, size, quality and concepts. Raises SAEFileError."""
    header = read_header(path)
    sae = header.autoencoder
    print(f"{path}: {header.model_family}, {header.hookpoint} ({header.hooked})")
    print(f"{sae.n_latents} latents of width {sae.d_in}, {sae.activation}, k = {sae.k}")
    for name, value in header.training.get("validation", {}).items():
        print(f"{name}: {value}")
    for concept in header.concepts:
        accuracy = concept.facts.get("balanced_accuracy")
        latents = ", ".join(map(str, concept.latents))
        print(
            f"  {concept.group}: {concept.name:<12} latent {latents:<6} x {concept.multiplier:g}, accuracy {accuracy}"
        )
