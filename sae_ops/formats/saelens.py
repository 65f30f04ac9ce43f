"""SAELens: cfg.json and sae_weights.safetensors.

W_enc [d, n], b_enc [n], W_dec [n, d], b_dec [d]; jumprelu: threshold [n]; gated: b_gate, r_mag, b_mag [n] and no b_enc.
"""

import json

import torch

from ..autoencoder import SparseAutoencoder
from ..sae_file import SAEFileError
from .assemble import assemble, unit_decoder
from .checkpoint import Checkpoint

_INPUT_NORMS = {"none": "none", "layer_norm": "layer", "constant_norm_rescale": "length"}


def recognises(checkpoint: Checkpoint) -> bool:
    return "W_enc" in checkpoint.tensors and "d_sae" in checkpoint.config


def read(checkpoint: Checkpoint) -> SparseAutoencoder:
    """Raises SAEFileError on what has no latents of its own sign and place: transcoders, AbsTopK and the like."""
    config = checkpoint.config
    architecture, k = _architecture(checkpoint)
    scaling = checkpoint.tensors.get("scaling_factor")
    if scaling is not None and not torch.allclose(scaling.float(), torch.ones(())):
        raise SAEFileError(
            f"{checkpoint.path} was fine-tuned with a scaling factor, which SAELens itself no longer reads. "
            "Choose an SAE without."
        )
    W_enc, W_dec = checkpoint.tensor("W_enc").T, checkpoint.tensor("W_dec")
    threshold, activation = None, architecture
    match architecture:
        case "standard":
            b_enc, activation = checkpoint.tensor("b_enc"), "relu"
        case "topk":
            b_enc = checkpoint.tensor("b_enc")
            if config.get("rescale_acts_by_decoder_norm"):
                W_enc, b_enc, W_dec = unit_decoder(W_enc, b_enc, W_dec)
        case "jumprelu":
            b_enc, threshold = checkpoint.tensor("b_enc"), checkpoint.tensor("threshold")
        case "gated":
            activation = "jumprelu"
            W_enc, b_enc, threshold = ungated(
                W_enc, checkpoint.tensor("b_gate"), checkpoint.tensor("r_mag"), checkpoint.tensor("b_mag")
            )
        case _:
            raise SAEFileError(
                f"{checkpoint.path} is of the architecture '{architecture}', not an autoencoder whose latents are "
                "positive and fire at one place. Readable are: standard, topk, jumprelu, gated."
            )
    input_norm, input_scale = _input_convention(checkpoint)
    return assemble(
        checkpoint,
        activation,
        k,
        W_enc,
        b_enc,
        W_dec,
        checkpoint.tensor("b_dec"),
        threshold,
        input_norm,
        input_scale,
        subtracts_b_dec=bool(config.get("apply_b_dec_to_input", True)),
    )


def ungated(
    W_enc: torch.Tensor, b_gate: torch.Tensor, r_mag: torch.Tensor, b_mag: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, bias and threshold of the JumpReLU encoder that a gated one amounts to; W_enc [n, d].

    The gate W x + b_gate > 0 is the threshold e^r W x + b_mag > b_mag - e^r b_gate.
    """
    scale = r_mag.exp()
    return W_enc * scale[:, None], b_mag, b_mag - scale * b_gate


def _architecture(checkpoint: Checkpoint) -> tuple[str, int | None]:
    """Name and k; before version 6 TopK was an activation function."""
    config = checkpoint.config
    architecture = config.get("architecture", "standard")
    function = config.get("activation_fn_str", config.get("activation_fn", "relu"))
    if architecture == "standard" and function == "topk":
        return "topk", (config.get("activation_fn_kwargs") or {}).get("k") or checkpoint.count("k")
    if function not in ("relu", "topk"):
        raise SAEFileError(f"{checkpoint.path}: its activation function '{function}' is unknown. Choose another SAE.")
    return architecture, checkpoint.count("k") if architecture == "topk" else None


def _input_convention(checkpoint: Checkpoint) -> tuple[str, float]:
    """Input norm and scale of SparseAutoencoder."""
    normalises = checkpoint.config.get("normalize_activations") or "none"
    if normalises is True or normalises == "expected_average_only_in":
        scaler = checkpoint.path.with_name("activation_scaler.json")
        factor = json.loads(scaler.read_text(encoding="utf-8"))["scaling_factor"] if scaler.is_file() else None
        if factor is None:
            raise SAEFileError(
                f"{checkpoint.path} expects its input scaled, but does not say by what. Call "
                "fold_activation_norm_scaling_factor on it in SAELens, or put its activation_scaler.json beside it."
            )
        return "none", float(factor)
    if normalises not in _INPUT_NORMS:
        raise SAEFileError(
            f"{checkpoint.path} expects its input normalised by '{normalises}'. Fold that into the weights in SAELens, "
            "save it again, and import what was saved."
        )
    return _INPUT_NORMS[normalises], 1.0
