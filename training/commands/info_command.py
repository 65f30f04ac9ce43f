"""`sae-eraser info`: what is in an SAE file, and where others can download it."""

import argparse
from pathlib import Path
from urllib.parse import urlsplit

from ...sae_ops.description import describe_file
from ...sae_ops.sae_file import set_training_fact


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describes `info` and adds the options it takes."""
    parser.description = (
        "Shows for which model and hookpoint an SAE was made, its size and activation, how well it was "
        "trained, and its concepts. Of another tool's SAE it shows the command that imports it."
    )
    parser.add_argument("file", type=Path, help="SAE file, or file or folder of another tool's SAE")
    parser.add_argument(
        "--set-url",
        metavar="URL",
        help="https address of the file, which is first written into it; workflows that use the file then say where "
        "it can be downloaded",
    )


def run(options: argparse.Namespace) -> None:
    """Prints hookpoint, size, quality and concepts. Raises ValueError; OSError."""
    if options.set_url is not None:
        _set_url(options.file, options.set_url)
    print(describe_file(options.file))


def _set_url(path: Path, url: str) -> None:
    address = urlsplit(url)
    if address.scheme != "https" or not address.netloc or Path(address.path).suffix != ".safetensors":
        raise ValueError(
            f"'{url}' is no address of an SAE file. Give the one that downloads it, such as "
            "https://huggingface.co/NAME/saes/resolve/main/mine.safetensors"
        )
    set_training_fact(path, "url", url)
