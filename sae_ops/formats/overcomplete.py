"""overcomplete: the state of an SAE module, saved by torch.save.

encoder.final_block.0 (Linear) and .1 (BatchNorm, or nothing), or encoder.weight [n, d] alone, or an encoder tied to the
dictionary; dictionary._weights [n, d] and dictionary.multiplier []; JumpSAE: thresholds [n]. Neither k nor the
threshold of BatchTopK is in it.
"""

import torch

from ..autoencoder import SparseAutoencoder
from ..sae_file import SAEFileError
from .assemble import assemble
from .checkpoint import Checkpoint

_NORM = "encoder.final_block.1."


def recognises(checkpoint: Checkpoint) -> bool:
    return {"dictionary._weights", "dictionary.multiplier"} <= checkpoint.tensors.keys()


def read(checkpoint: Checkpoint) -> SparseAutoencoder:
    """Raises SAEFileError if the encoder is more than one layer, or if nothing tells which latents are kept."""
    W_dec = _dictionary(checkpoint)
    W_enc, b_enc = _encoder(checkpoint, W_dec)
    b_dec = torch.zeros(W_dec.shape[-1])
    k, threshold = checkpoint.config.get("k"), checkpoint.config.get("threshold")
    if "thresholds" in checkpoint.tensors:
        limits = checkpoint.tensor("thresholds").exp()
        return assemble(checkpoint, "jumprelu", None, W_enc, b_enc, W_dec, b_dec, limits)
    if threshold is not None:
        return assemble(checkpoint, "batchtopk", k, W_enc, b_enc, W_dec, b_dec, torch.tensor(float(threshold)))
    if k is not None:
        return assemble(checkpoint, "topk", k, W_enc, b_enc, W_dec, b_dec)
    raise SAEFileError(
        f"{checkpoint.path}: overcomplete does not save which latents are kept. Import it with either --k "
        "(the top_k of a TopKSAE) or --threshold (the running_threshold of a BatchTopKSAE)."
    )


def _dictionary(checkpoint: Checkpoint) -> torch.Tensor:
    """The decoder [n, d].

    Its normalisation is not saved; the default one leaves rows of unit norm but for one optimizer step.
    """
    weights = checkpoint.tensor("dictionary._weights")
    norms = weights.norm(dim=1, keepdim=True)
    if ((norms - 1).abs() < 0.05).all():
        weights = weights / norms
    return weights * checkpoint.tensor("dictionary.multiplier").exp()


def _encoder(checkpoint: Checkpoint, W_dec: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The encoder's weight [n, d] and bias [n], with batch norm, as it is after training, folded into them."""
    tensors = checkpoint.tensors
    own = {name for name in tensors if name.startswith("encoder.") and not name.startswith("encoder.tied_to.")}
    if "encoder.final_block.0.weight" not in tensors:
        if not own <= {"encoder.weight", "encoder.bias"}:
            raise _too_deep(checkpoint)
        W_enc = checkpoint.tensor("encoder.weight") if "encoder.weight" in tensors else W_dec
        b_enc = checkpoint.tensor("encoder.bias") if "encoder.bias" in tensors else torch.zeros(len(W_enc))
        return W_enc, b_enc
    W_enc, b_enc = checkpoint.tensor("encoder.final_block.0.weight"), checkpoint.tensor("encoder.final_block.0.bias")
    has_norm = any(name.startswith(_NORM) for name in own)
    if any(not name.startswith("encoder.final_block.") for name in own):
        raise _too_deep(checkpoint)
    if not has_norm:
        return W_enc, b_enc
    if _NORM + "running_var" not in own:  # layer norm, which depends on all latents of a vector
        raise _too_deep(checkpoint)
    scale = checkpoint.tensor(_NORM + "weight") / (checkpoint.tensor(_NORM + "running_var") + 1e-5).sqrt()
    b_enc = (b_enc - checkpoint.tensor(_NORM + "running_mean")) * scale + checkpoint.tensor(_NORM + "bias")
    return W_enc * scale[:, None], b_enc


def _too_deep(checkpoint: Checkpoint) -> SAEFileError:
    return SAEFileError(
        f"{checkpoint.path}: its encoder is more than one linear layer, which an SAE here cannot be. Choose one with "
        "overcomplete's encoder 'linear' or 'mlp_bn_1'."
    )
