"""The drawings that everything is trained on."""

import multiprocessing
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..concepts import OBJECTS, STYLES
from ..drawing import draw
from .fitting import save_atomically

PAIRS = [(name, style) for name in OBJECTS for style in STYLES]


def _draw_pair(task):
    (name, style), seeds = task
    return np.stack([draw(name, style, seed) for seed in seeds])


def _save_array(array: np.ndarray, path: Path) -> None:
    with open(path, "wb") as file:  # np.save adds an ending to a name
        np.save(file, array)


def load_pictures(work: Path, per_pair: int, first_seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """uint8 pictures [pairs * per_pair, 64, 64, 3] with object and style indices; drawn once, then read from disk."""
    path = work / f"pictures_{first_seed}_{per_pair}.npy"
    if not path.exists():
        tasks = [
            (pair, range(first_seed + i * per_pair, first_seed + (i + 1) * per_pair)) for i, pair in enumerate(PAIRS)
        ]
        with multiprocessing.Pool() as pool:
            drawn = list(tqdm(pool.imap(_draw_pair, tasks), total=len(tasks), desc="drawing"))
        save_atomically(_save_array, np.concatenate(drawn), path)
    pictures = torch.from_numpy(np.load(path, mmap_mode="c"))
    objects = torch.arange(len(OBJECTS)).repeat_interleave(len(STYLES) * per_pair)
    styles = torch.arange(len(STYLES)).repeat_interleave(per_pair).repeat(len(OBJECTS))
    return pictures, objects, styles


def as_input(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 [n, 64, 64, 3] -> float [n, 3, 64, 64] in 0..1."""
    return pictures.movedim(-1, 1).float() / 255
