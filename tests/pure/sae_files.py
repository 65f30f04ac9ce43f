"""SAE files for tests: a good one, and ways to spoil it."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pure.random_sae import CONCEPTS, random_sae, random_statistics
from sae_eraser.sae_ops.sae_file import SAEHeader, save_sae


def header_of(sae) -> SAEHeader:
    """A header in which no field has its default."""
    return SAEHeader("mid_block.attentions.0", "SD15", sae.config, "residual", CONCEPTS, {"fvu": 0.2, "seed": 1})


def write_good_file(path: Path) -> Path:
    """A random SAE with every field and tensor that a file has."""
    sae, statistics = random_sae("batchtopk"), random_statistics()
    statistics = replace(statistics, detection=0.1 * statistics.overall, positions=torch.tensor(16.0))
    save_sae(path, sae, header_of(sae), statistics)
    return path


def rewrite(path: Path, tensors: dict | None = None, **fields) -> None:
    """Changes tensors and header fields of an SAE file; None takes one out."""
    with safe_open(path, "pt") as opened:
        header = json.loads(opened.metadata()["sae_eraser"]) | fields
    header = {name: value for name, value in header.items() if value is not None}
    kept = {name: value for name, value in (load_file(path) | (tensors or {})).items() if value is not None}
    save_file(kept, path, metadata={"sae_eraser": json.dumps(header)})
