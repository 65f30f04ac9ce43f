"""OpenAI's sparse_autoencoder, and sdxl-unbox, whose SAE descends from it; SAEmnesia writes the latter, too.

encoder.weight [n, d], decoder.weight [d, n], pre_bias [d], latent_bias [n]. OpenAI's files name their activation
function; sdxl-unbox has a config.json and wraps the tensors in {"state_dict"}.
"""

from pathlib import Path

import torch

from ..autoencoder import SparseAutoencoder
from ..sae_file import SAEFileError
from .assemble import assemble
from .checkpoint import Checkpoint
from .restricted_pickle import read_torch_file


def recognises(checkpoint: Checkpoint) -> bool:
    return _has_the_tensors(checkpoint) and "activation" in checkpoint.values


def recognises_sdxl_unbox(checkpoint: Checkpoint) -> bool:
    return _has_the_tensors(checkpoint) and "activation" not in checkpoint.values


def read(checkpoint: Checkpoint) -> SparseAutoencoder:
    """TopK comes with layer-normed input, as in OpenAI's own loader. Raises SAEFileError on activations but ReLU's."""
    activation = checkpoint.values["activation"]
    settings = checkpoint.values.get("activation_state_dict") or {}
    after = settings.get("postact_fn", "ReLU") if activation == "TopK" else activation
    if after != "ReLU":
        raise SAEFileError(
            f"{checkpoint.path}: its latents are the outcome of '{after}' and can be negative, which no edit here "
            "is made for. Choose an SAE with ReLU."
        )
    if activation == "TopK":
        return _assemble(checkpoint, "topk", int(settings["k"]), "layer")
    return _assemble(checkpoint, "relu", None, "none")


def read_sdxl_unbox(checkpoint: Checkpoint) -> SparseAutoencoder:
    """TopK, then ReLU. mean.pt and std.pt beside it are of the latents, for painting, and do not touch the encoding.

    Raises SAEFileError if they are of the input instead.
    """
    n, d = checkpoint.tensor("encoder.weight").shape
    for name in ("mean.pt", "std.pt"):
        path = checkpoint.path.with_name(name)
        if path.is_file() and n != d and _size(path) != n:
            raise SAEFileError(
                f"{path} should hold one number for each of the {n} latents. As it does not, the input of "
                f"{checkpoint.path} may have to be normalised in a way that is not written down. "
                f"If it need not be, take {name} away."
            )
    return _assemble(checkpoint, "topk", checkpoint.count("k"), "none")


def _has_the_tensors(checkpoint: Checkpoint) -> bool:
    return {"encoder.weight", "pre_bias", "latent_bias"} <= checkpoint.tensors.keys()


def _assemble(checkpoint: Checkpoint, activation: str, k: int | None, input_norm: str) -> SparseAutoencoder:
    if "decoder.linear.weight" in checkpoint.tensors:  # tied to the encoder
        W_dec = checkpoint.tensor("decoder.linear.weight")
    else:
        W_dec = checkpoint.tensor("decoder.weight").T
    return assemble(
        checkpoint,
        activation,
        k,
        checkpoint.tensor("encoder.weight"),
        checkpoint.tensor("latent_bias"),
        W_dec,
        checkpoint.tensor("pre_bias"),
        input_norm=input_norm,
    )


def _size(path: Path) -> int:
    value = read_torch_file(path)
    return value.numel() if isinstance(value, torch.Tensor) else 0
