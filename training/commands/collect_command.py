"""`sae-eraser collect`: lets a ComfyUI run the node Collect Activations, over HTTP."""

import argparse
from pathlib import Path

from ..comfyui.node_options import SAMPLING, NodeOptions, add_node_options, given_inputs
from ..comfyui.run_node import run_node
from ..comfyui.server import add_comfyui_options, chosen_comfyui, default_inputs, node_schema
from ..prompts import read_prompts, read_text

NODE = "SAEEraser_CollectActivations"

INPUTS: NodeOptions = {
    "hookpoints": (str, "blocks to read, separated by commas, e.g. up_blocks.1.attentions.1"),
    "name": (str, "name of the cache, which goes to ComfyUI's output/sae_cache/NAME"),
    "seeds": (int, "number of pictures of every prompt"),
    "first_seed": (int, "seed of the first picture of every prompt; the next has the next seed"),
    **SAMPLING,
    "batch_size": (int, "number of pictures sampled at once"),
    "storage": (str, "how numbers are stored: fp16 or bf16, 2 bytes each, or int8, 1 byte"),
    "keep_steps": (int, "number of calls of the model to keep for each picture, spread evenly; 0: all"),
    "keep_positions": (int, "number of positions to keep of every map, drawn at random; 0: all"),
    "sigma_min": (float, "lowest noise level (sigma) at which calls are kept"),
    "sigma_max": (float, "highest noise level (sigma) at which calls are kept; 0: no limit"),
    "branch": (str, "half of guidance to keep: cond, that of the prompt; both, which takes twice the space"),
    "hooked": (str, "what is read of each block: output, or residual (output minus input)"),
    "shard": (str, "part of the cache to fill, where several machines share it: 2/4 on the second of four"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describes `collect` and adds the options it takes."""
    parser.description = (
        "Does what the node Collect Activations does. Options that are not given have the defaults of the "
        "node, which its help page lists. Run again after a stop, it goes on after the last finished shard."
    )
    parser.add_argument("--checkpoint", required=True, metavar="NAME", help="file in ComfyUI's models/checkpoints")
    parser.add_argument("--prompts", required=True, type=Path, metavar="FILE", help="JSON lines, or CSV with a header")
    add_node_options(parser, INPUTS)
    add_comfyui_options(parser)


def run(options: argparse.Namespace) -> None:
    """Runs the node to its end, showing how far it is. Raises ComfyUIError, also after Ctrl-C; ValueError; OSError."""
    prompts = read_text(options.prompts)
    read_prompts(prompts)  # a mistake in them shows before ComfyUI starts
    with chosen_comfyui(options) as comfyui:
        defaults = default_inputs(node_schema(comfyui, NODE))
        inputs = {**defaults, "prompts": prompts, **given_inputs(options, INPUTS)}
        print(run_node(comfyui, NODE, options.checkpoint, inputs))
