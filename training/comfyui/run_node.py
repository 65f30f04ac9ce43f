"""Lets a ComfyUI run one long node of this pack on a checkpoint, and shows how far it is."""

from tqdm import tqdm

from ..progress import PROGRESS_PATH, progress_bar
from .server import ComfyUI, run_graph


def run_node(comfyui: ComfyUI, node: str, checkpoint: str, inputs: dict) -> str:
    """The text that the node shows at its end. Raises ComfyUIError.

    inputs: all but model and clip, which the checkpoint gives; "name" is what the node calls its progress.
    """
    graph = {
        "checkpoint": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "node": {"class_type": node, "inputs": {**inputs, "model": ["checkpoint", 0], "clip": ["checkpoint", 1]}},
    }
    name, bar = inputs["name"].strip(), None

    def show_progress() -> None:
        nonlocal bar
        progress = comfyui.request(PROGRESS_PATH)
        if progress.get("name") == name:
            bar = bar or progress_bar(progress["images"])
            bar.n, bar.total = progress["done"], progress["images"]
            bar.set_description_str(progress["text"])

    try:
        return run_graph(comfyui, graph, show_progress)["outputs"]["node"]["text"][0]
    finally:
        if isinstance(bar, tqdm):
            bar.close()
