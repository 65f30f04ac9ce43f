"""`sae-eraser locate`: lets a ComfyUI run the node Locate Concept, over HTTP."""

import argparse
from pathlib import Path

from ..comfyui.node_options import SAMPLING, NodeOptions, add_node_options, given_inputs
from ..comfyui.run_node import run_node
from ..comfyui.server import add_comfyui_options, chosen_comfyui, default_inputs, node_schema
from ..prompts import read_text

NODE = "SAEEraser_LocateConcept"

INPUTS: NodeOptions = {
    "hookpoints": (str, "blocks to exchange, separated by commas: names, or parts such as attentions"),
    "ranges": (str, "when to exchange: shares of the sampling, separated by commas, e.g. 0-1,0-0.5,0.5-1"),
    "name": (str, "name of the results, which go to ComfyUI's output/sae_locate/NAME.json, .md and .png"),
    "seeds": (int, "number of noises for every pair"),
    "first_seed": (int, "seed of the first noise; the next has the next seed"),
    **SAMPLING,
    "batch_size": (int, "number of pairs sampled at once, as four pictures each"),
    "combine": (int, "largest number of blocks exchanged together, adding the best one at a time; 1: no combinations"),
    "hooked": (str, "what is exchanged: the block's output, or residual (output minus input)"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describes `locate` and adds the options it takes."""
    parser.description = (
        "Does what the node Locate Concept does, and prints its table. Options that are not given have the "
        "defaults of the node, which its help page lists. Run again after a stop, it goes on where it was."
    )
    parser.add_argument("--checkpoint", required=True, metavar="NAME", help="file in ComfyUI's models/checkpoints")
    parser.add_argument(
        "--pairs", required=True, type=Path, metavar="FILE", help="file with two prompts a line and a | between them"
    )
    add_node_options(parser, INPUTS)
    add_comfyui_options(parser)


def run(options: argparse.Namespace) -> None:
    """Runs the node to its end, showing how far it is. Raises ComfyUIError, also after Ctrl-C; ValueError; OSError."""
    pairs = read_text(options.pairs)
    with chosen_comfyui(options) as comfyui:
        defaults = default_inputs(node_schema(comfyui, NODE))
        inputs = {**defaults, "pairs": pairs, **given_inputs(options, INPUTS)}
        print(run_node(comfyui, NODE, options.checkpoint, inputs))
        print(f"\nThe picture is output/sae_locate/{inputs['name'].strip()}.png of ComfyUI.")
