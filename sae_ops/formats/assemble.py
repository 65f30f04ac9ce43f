"""Puts another tool's weights into a SparseAutoencoder."""

import torch

from ..autoencoder import SAEConfig, SparseAutoencoder
from ..sae_file import SAEFileError
from .checkpoint import Checkpoint


def assemble(
    checkpoint: Checkpoint,
    activation: str,
    k: int | None,
    W_enc: torch.Tensor,
    b_enc: torch.Tensor,
    W_dec: torch.Tensor,
    b_dec: torch.Tensor,
    threshold: torch.Tensor | None = None,
    input_norm: str = "none",
    input_scale: float = 1.0,
    subtracts_b_dec: bool = True,
) -> SparseAutoencoder:
    """W_enc [n, d], b_enc [n], W_dec [n, d], b_dec [d], threshold [n] or [].

    subtracts_b_dec: whether b_dec is taken off the input; if not, b_enc gives it back. Raises SAEFileError.
    """
    if W_enc.ndim != 2:
        raise SAEFileError(f"{checkpoint.path}: its encoder is no matrix. It is damaged; download or save it again.")
    n, d = W_enc.shape
    try:
        sae = SparseAutoencoder(SAEConfig(d, n, activation, min(32, n) if k is None else k, input_norm))
    except ValueError as error:
        raise SAEFileError(f"{checkpoint.path}: {error} Download or save it again.") from error
    tensors = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec, "input_scale": torch.tensor(input_scale)}
    tensors["threshold"] = sae.threshold if threshold is None else threshold
    for name, tensor in tensors.items():
        expected = tuple(sae.state_dict()[name].shape)
        if tuple(tensor.shape) != expected:
            raise SAEFileError(
                f"{checkpoint.path}: its {name} should have the shape {expected}, but has {tuple(tensor.shape)}. "
                "Its tensors do not belong together; download or save it again."
            )
    if not subtracts_b_dec:
        tensors["b_enc"] = b_enc + W_enc @ b_dec
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise SAEFileError(f"{checkpoint.path}: its {name} holds NaN or infinity. Train or download it again.")
    if input_scale <= 0:
        raise SAEFileError(
            f"{checkpoint.path}: its input is multiplied by {input_scale:g}, but that must be positive. Download or "
            "save it again."
        )
    sae.load_state_dict(tensors, strict=False)
    return sae.eval().requires_grad_(False)


def unit_decoder(
    W_enc: torch.Tensor, b_enc: torch.Tensor, W_dec: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """This autoencoder with decoder rows of unit norm, its latents as much larger."""
    norms = W_dec.norm(dim=1).clamp(min=1e-8)
    return W_enc * norms[:, None], b_enc * norms, W_dec / norms[:, None]
