"""How a collection shows how far it is, in the terminal and to who asks ComfyUI."""

from tqdm import tqdm

PROGRESS_PATH = "/sae_eraser/collecting"
"""Where the pack answers with the name, done, images and text of the collection that runs; {} if there is none."""


def progress_bar(images: int) -> tqdm:
    """One line whose description says everything."""
    return tqdm(total=images, bar_format="{percentage:3.0f}%|{bar:20}| {desc}")
