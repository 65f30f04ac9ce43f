"""The command sae-eraser."""

import argparse
import io
import sys

from . import (
    collect_command,
    evaluate_command,
    export_command,
    import_command,
    info_command,
    locate_command,
    train_command,
)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="sae-eraser", description="Trains SAEs that erase concepts in ComfyUI.")
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
        module.add_command(commands)
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):  # names of concepts may have letters that a terminal lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        options.command(options)
    except (ValueError, OSError) as error:
        print(f"sae-eraser: {error}", file=sys.stderr)
        return 1
    return 0
