"""Command line options that stand for inputs of the pack's nodes; those not given are the node's defaults."""

import argparse

NodeOptions = dict[str, tuple[type, str]]
"""By input of the node: type and help of its option."""
OTHER_NAMES = {"sampler_name": "--sampler"}
"""Options that are not called as the input is."""

SAMPLING: NodeOptions = {
    "steps": (int, "number of steps of the sampler"),
    "cfg": (float, "strength of classifier-free guidance"),
    "sampler_name": (str, "ComfyUI's name of a sampler, e.g. euler"),
    "scheduler": (str, "ComfyUI's name of a scheduler, e.g. normal"),
    "width": (int, "width of the pictures, in pixels"),
    "height": (int, "height of the pictures, in pixels"),
}


def option_of(name: str) -> str:
    """The option that gives a node's input or a setting of this name, e.g. --first-seed for first_seed."""
    return OTHER_NAMES.get(name, "--" + name.replace("_", "-"))


def add_node_options(parser: argparse.ArgumentParser, table: NodeOptions) -> None:
    """Adds the options of the table."""
    for name, (kind, text) in table.items():
        parser.add_argument(option_of(name), dest=name, type=kind, help=text)


def given_inputs(options: argparse.Namespace, table: NodeOptions) -> dict:
    """The inputs of the table whose option was given."""
    return {name: getattr(options, name) for name in table if getattr(options, name) is not None}
