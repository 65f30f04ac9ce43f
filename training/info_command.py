"""`sae-eraser info`: what is in an SAE file."""

from pathlib import Path

from ..sae_ops.description import describe_file


def add_command(commands) -> None:
    """Adds `info` to the subcommands of argparse."""
    info = commands.add_parser("info", help="show what is in an SAE file, or in another tool's")
    info.set_defaults(command=lambda options: show(options.file))
    info.add_argument("file", type=Path)


def show(path: Path) -> None:
    """Prints hookpoint, size, quality and concepts. Raises SAEFileError."""
    print(describe_file(path))
