"""The command sae-eraser."""

import argparse
import importlib
import importlib.metadata
import io
import re
import sys
from pathlib import Path

COMMANDS = {
    "locate": "find the blocks at which a concept is decided",
    "collect": "sample labelled prompts in a ComfyUI and cache the activations",
    "train": "make SAE files of a cache written by Collect Activations",
    "evaluate": "measure what an SAE erases and what it leaves, with a classifier",
    "info": "show what is in an SAE file, or in another tool's",
    "import": "turn another tool's SAE into an SAE file",
    "export": "write an SAE file in another tool's format",
}
"""In the order in which they are used, with what `--help` says of them; the module of each is NAME_command."""


def command_line(command: str | None) -> argparse.ArgumentParser:
    """The parser of a command line for this command; only its module is imported, since most need torch."""
    parser = argparse.ArgumentParser(
        prog="sae-eraser", description="Makes, measures and converts SAEs that erase concepts in ComfyUI."
    )
    parser.add_argument("--version", action="version", version=f"sae-eraser {_version()}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary)
        if name == command:
            module = importlib.import_module(f".commands.{name}_command", __package__)
            module.add_arguments(subparser)
            subparser.set_defaults(command=module.run)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        command = next((argument for argument in arguments if not argument.startswith("-")), None)
        options = command_line(command).parse_args(arguments)
        for stream in (sys.stdout, sys.stderr):  # names of concepts may have letters that a terminal lacks
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        options.command(options)
    except (ValueError, OSError) as error:
        print(f"sae-eraser: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sae-eraser: Stopped. Run the same command again.", file=sys.stderr)
        return 1
    return 0


def _version() -> str:
    """The pack's, as the pyproject.toml beside this code says it, or else that of the package which is installed."""
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if project.is_file():
        found = re.search(r'^version = "(.+)"$', project.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1]
    try:
        return importlib.metadata.version("sae-eraser")
    except importlib.metadata.PackageNotFoundError:
        return "of an unknown version"
