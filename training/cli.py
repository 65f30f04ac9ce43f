"""The command sae-eraser."""

import argparse
import importlib.metadata
import io
import re
import sys
from pathlib import Path

from .commands import (
    collect_command,
    evaluate_command,
    export_command,
    import_command,
    info_command,
    locate_command,
    train_command,
)


def command_line() -> argparse.ArgumentParser:
    """The parser with all commands."""
    parser = argparse.ArgumentParser(
        prog="sae-eraser", description="Makes, measures and converts SAEs that erase concepts in ComfyUI."
    )
    parser.add_argument("--version", action="version", version=f"sae-eraser {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (
        locate_command,
        collect_command,
        train_command,
        evaluate_command,
        info_command,
        import_command,
        export_command,
    ):
        module.add_command(commands).set_defaults(command=module.run)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    try:
        options = command_line().parse_args(arguments)
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
