"""Made-up activation vectors for the speed tables: sparse sums of many directions, some far commoner than others."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

TRAINING, HELD_OUT = 131_072, 8_192
FEATURES, ACTIVE = 8_192, 24
SEED = 0


def directions(width: int, generator: torch.Generator) -> torch.Tensor:
    """Those that the vectors are made of, by a generator that begins at SEED: fp32 [FEATURES, width], unit rows."""
    return torch.nn.functional.normalize(torch.randn(FEATURES, width, generator=generator), dim=1)


def vectors(folder: Path, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """fp16 [TRAINING, width] and fp32 [HELD_OUT, width], of unit mean square; the same for the same width.

    Each is a sum of ACTIVE of FEATURES random directions, the i-th as frequent as 1 / (i + 20), plus noise that makes
    a tenth of the variance.
    """
    path = folder / f"vectors-{width}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(SEED)
        features = directions(width, generator)
        frequency = 1 / (torch.arange(FEATURES) + 20.0)
        parts = []
        for _ in range((TRAINING + HELD_OUT) // 8192):
            chosen = torch.multinomial(frequency.expand(8192, -1), ACTIVE, generator=generator)
            amount = torch.rand(chosen.shape, generator=generator) + 0.5
            x = torch.nn.functional.embedding_bag(chosen, features, per_sample_weights=amount, mode="sum")
            noise = torch.randn(x.shape, generator=generator)
            parts.append((x / x.std() + noise / 3).half())
        x = torch.cat(parts)
        save_file({"x": (x.float() / x.float().square().mean().sqrt()).half()}, path)
    x = load_file(path)["x"]
    return x[:TRAINING], x[TRAINING:].float()
