"""How activation vectors lie in a shard: fp16, bf16, or int8 with one scale for each vector."""

import torch

STORAGES = ("fp16", "bf16", "int8")
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}
SCALE = ".scale"
"""Suffix of the tensor [..., positions] that holds the scales of int8 vectors."""


def bytes_per_vector(width: int, storage: str) -> int:
    """How many bytes a vector of this width takes, its scale included."""
    return width + 4 if storage == "int8" else 2 * width


def stored(name: str, vectors: torch.Tensor, storage: str) -> dict[str, torch.Tensor]:
    """Tensors to write for `vectors` [..., d], by their names in the shard.

    int8: round(x / scale) with scale = max|x| / 127 of each vector, a root mean square error of max|x| / 440. Measured
    on Gaussian vectors of width 1280, that is 0.8 % of their root mean square (bf16: 0.17 %, fp16: 0.02 %), or a
    fraction of variance unexplained of 6.4e-5. A channel 20 times as large as the others makes it 4.5 % of theirs.
    Raises ValueError if values are too large for fp16.
    """
    if storage != "int8":
        if vectors.abs().max() > torch.finfo(_DTYPES[storage]).max:
            raise ValueError(f"The activations at {name} are too large for {storage}. Choose bf16 as storage.")
        return {name: vectors.to(_DTYPES[storage]).contiguous()}
    vectors = vectors.float()
    scale = vectors.abs().amax(dim=-1) / 127
    steps = (vectors / scale.clamp(min=1e-30)[..., None]).round_()
    return {name: steps.to(torch.int8).contiguous(), name + SCALE: scale.contiguous()}


def empty(shape: tuple[int, ...], storage: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Room for vectors [..., d] as stored and, for int8, for their scales [...]; the values are arbitrary."""
    return torch.empty(shape, dtype=_DTYPES[storage]), torch.empty(shape[:-1]) if storage == "int8" else None


def restored(vectors: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """The vectors [..., d] in fp32, from what is stored: vectors [..., d] and, for int8, scales [...]."""
    return vectors.float() if scale is None else vectors.float() * scale[..., None]
