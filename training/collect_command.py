"""sae-eraser collect: lets a ComfyUI run the node Collect Activations, over HTTP."""

import argparse
from pathlib import Path

from .comfyui_server import add_comfyui_options, chosen_comfyui, default_inputs, node_schema
from .node_options import SAMPLING, NodeOption, add_node_options, given_inputs
from .prompts import read_prompts, read_text
from .run_node import run_node

NODE = "SAEEraser_CollectActivations"

INPUTS: tuple[NodeOption, ...] = (
    ("--hookpoints", "hookpoints", str, "blocks to read, separated by commas, e.g. up_blocks.1.attentions.1"),
    ("--name", "name", str, "the cache goes to ComfyUI's output/sae_cache/NAME"),
    ("--seeds", "seeds", int, "pictures of every prompt"),
    ("--first-seed", "first_seed", int, "the seed of the first of them"),
    *SAMPLING,
    ("--batch-size", "batch_size", int, "pictures sampled at once"),
    ("--storage", "storage", str, "fp16, bf16 or int8"),
    ("--keep-steps", "keep_steps", int, "keep so many calls of the model, spread evenly; 0: all"),
    ("--keep-positions", "keep_positions", int, "keep so many positions of every map, drawn at random; 0: all"),
    ("--sigma-min", "sigma_min", float, "keep only calls at this noise level or above"),
    ("--sigma-max", "sigma_max", float, "keep only calls at this noise level or below; 0: no limit"),
    ("--branch", "branch", str, "cond, or both halves of guidance"),
    ("--hooked", "hooked", str, "output, or residual (output minus input)"),
    ("--shard", "shard", str, "2/4 on the second of four machines that fill one cache"),
)


def add_command(commands) -> None:
    """Adds `collect` to the subparsers of the command line."""
    parser = commands.add_parser(
        "collect",
        help="sample labelled prompts in a ComfyUI and cache the activations",
        description="Does what the node Collect Activations does. Options that are not given are the node's defaults.",
    )
    parser.set_defaults(command=collect)
    parser.add_argument("--checkpoint", required=True, metavar="NAME", help="file in ComfyUI's models/checkpoints")
    parser.add_argument("--prompts", required=True, type=Path, metavar="FILE", help="JSON lines, or CSV with a header")
    add_node_options(parser, INPUTS)
    add_comfyui_options(parser)


def collect(options: argparse.Namespace) -> None:
    """Runs the node to its end, showing how far it is. Raises ComfyUIError, also after Ctrl-C; ValueError; OSError."""
    prompts = read_text(options.prompts)
    read_prompts(prompts)  # a mistake in them shows before ComfyUI starts
    with chosen_comfyui(options) as comfyui:
        defaults = default_inputs(node_schema(comfyui, NODE))
        inputs = {**defaults, "prompts": prompts, **given_inputs(options, INPUTS)}
        print(run_node(comfyui, NODE, options.checkpoint, inputs))
