"""Command line options that stand for inputs of the pack's nodes; those not given are the node's defaults."""

import argparse

NodeOption = tuple[str, str, type, str]
"""Option, input of the node, type, help."""

SAMPLING: tuple[NodeOption, ...] = (
    ("--steps", "steps", int, "number of steps of the sampler"),
    ("--cfg", "cfg", float, "strength of classifier-free guidance"),
    ("--sampler", "sampler_name", str, "ComfyUI's name of a sampler, e.g. euler"),
    ("--scheduler", "scheduler", str, "ComfyUI's name of a scheduler, e.g. normal"),
    ("--width", "width", int, "width of the pictures, in pixels"),
    ("--height", "height", int, "height of the pictures, in pixels"),
)


def add_node_options(parser: argparse.ArgumentParser, table: tuple[NodeOption, ...]) -> None:
    """Adds the options of the table."""
    for option, name, kind, text in table:
        parser.add_argument(option, dest=name, type=kind, help=text)


def given_inputs(options: argparse.Namespace, table: tuple[NodeOption, ...]) -> dict:
    """The inputs of the table whose option was given."""
    return {name: getattr(options, name) for _, name, _, _ in table if getattr(options, name) is not None}
