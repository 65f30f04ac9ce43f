"""Pictures as ComfyUI has them."""

import numpy
import torch
from PIL import Image


def as_tensor(image: Image.Image) -> torch.Tensor:
    """A picture as ComfyUI's IMAGE: fp32 [1, height, width, 3] in 0 to 1."""
    return torch.from_numpy(numpy.asarray(image, dtype=numpy.float32) / 255)[None]
