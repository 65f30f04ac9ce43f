"""`sae-eraser export`: an SAE file of ours as other tools read it."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from ...sae_ops.atomic_write import write_atomically
from ...sae_ops.autoencoder import SparseAutoencoder
from ...sae_ops.sae_file import SAEHeader, is_sae_file, load_sae

Export = tuple[dict[str, torch.Tensor], dict]
"""The weights file's tensors, and the settings for cfg.json."""
WEIGHTS = {"saelens": "sae_weights.safetensors", "sparsify": "sae.safetensors"}
"""How each tool names the weights file."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describes `export` and adds the options it takes."""
    parser.description = (
        "Writes the weights of an SAE file and a cfg.json into a folder, as SAELens or sparsify reads "
        "them. Concepts stay behind, since no other format has them."
    )
    parser.add_argument("file", type=Path, help="SAE file to export")
    parser.add_argument(
        "--to",
        choices=tuple(EXPORTERS),
        required=True,
        help="tool whose format is written: SAELens or EleutherAI's sparsify",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an SAE that lies in that folder")


def run(options: argparse.Namespace) -> None:
    """Writes the weights and cfg.json; concepts stay behind. Raises ValueError; OSError."""
    if options.out.is_file():
        raise ValueError(f"{options.out} is a file, but --out must be a folder. Choose another one.")
    sae, header, _ = load_sae(options.file)
    tensors, settings = EXPORTERS[options.to](sae, header)
    weights, config = options.out / WEIGHTS[options.to], options.out / "cfg.json"
    others = [options.out / name for name in WEIGHTS.values() if name != weights.name]
    for path in (weights, *others):
        if is_sae_file(path):
            raise ValueError(f"{path} is an SAE of ours, whose concepts no other format has. Choose another --out.")
    if not options.overwrite and any(path.exists() for path in (weights, config, *others)):
        raise ValueError(f"{options.out} holds an SAE. Choose another --out, or pass --overwrite to replace it.")
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_atomically(weights, lambda part: save_file(tensors, part))
    write_atomically(config, lambda part: part.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8"))
    for other in others:
        other.unlink(missing_ok=True)  # cfg.json is no longer of it
    print(
        f"{weights}: {settings.get('architecture', settings.get('activation'))}, {header.hookpoint} ({header.hooked})"
    )
    if options.to == "sparsify" and sae.config.activation == "batchtopk":
        print(
            f"warning: sparsify knows no threshold; it will keep the {sae.config.k} largest latents of every vector, "
            "where this SAE keeps as many as exceed its threshold. Latents that both keep are the same."
        )


def _to_saelens(sae: SparseAutoencoder, header: SAEHeader) -> Export:
    """A threshold becomes JumpReLU, as SAELens does it itself."""
    config = sae.config
    architectures = {"relu": "standard", "topk": "topk", "batchtopk": "jumprelu", "jumprelu": "jumprelu"}
    if config.activation not in architectures:
        raise ValueError(f"SAELens has no {config.activation}. Choose --to sparsify, or another SAE.")
    tensors = _folded(sae)
    tensors["W_enc"] = tensors["W_enc"].T
    settings = {
        "architecture": architectures[config.activation],
        "d_in": config.d_in,
        "d_sae": config.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": {"none": "none", "layer": "layer_norm", "length": "constant_norm_rescale"}[
            config.input_norm
        ],
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.0.0", **_place(header)},  # without it files count as older than version 6
    }
    if config.activation == "topk":
        settings |= {"k": config.k, "rescale_acts_by_decoder_norm": False}
    if settings["architecture"] == "jumprelu":
        tensors["threshold"] = sae.threshold.expand(config.n_latents)
    return tensors, settings


def _to_sparsify(sae: SparseAutoencoder, header: SAEHeader) -> Export:
    config = sae.config
    if config.activation not in ("topk", "batchtopk", "groupmax") or config.input_norm != "none":
        what = config.activation if config.input_norm == "none" else "normalisation of each vector"
        raise ValueError(f"sparsify keeps the k largest latents and has no {what}. Choose --to saelens.")
    tensors = _folded(sae)
    renamed = {"W_enc": "encoder.weight", "b_enc": "encoder.bias"}
    settings = {
        "activation": "groupmax" if config.activation == "groupmax" else "topk",
        "expansion_factor": max(1, config.n_latents // config.d_in),
        "normalize_decoder": False,
        "num_latents": config.n_latents,
        "k": config.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": config.d_in,
        "metadata": _place(header),
    }
    return {renamed.get(name, name): tensor for name, tensor in tensors.items()}, settings


def _place(header: SAEHeader) -> dict[str, str]:
    """Read again by `sae-eraser import`."""
    return {
        "hook_name": header.hookpoint,
        "sae_eraser_model_family": header.model_family,
        "sae_eraser_hooked": header.hooked,
    }


def _folded(sae: SparseAutoencoder) -> dict[str, torch.Tensor]:
    """Weights that take x as it is, with the same latents and reconstruction."""
    return {
        "W_enc": sae.W_enc * sae.input_scale,
        "b_enc": sae.b_enc,
        "W_dec": sae.W_dec / sae.input_scale,
        "b_dec": sae.b_dec / sae.input_scale + sae.input_shift,
    }


EXPORTERS: dict[str, Callable[[SparseAutoencoder, SAEHeader], Export]] = {
    "saelens": _to_saelens,
    "sparsify": _to_sparsify,
}
