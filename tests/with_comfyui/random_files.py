"""SAE files with random weights for the small world, so that no test here depends on a training result."""

from dataclasses import replace
from pathlib import Path

from pure.random_sae import CONCEPTS as FIRING
from pure.random_sae import random_sae, random_statistics
from sae_eraser.sae_ops.concepts import Concept
from sae_eraser.sae_ops.sae_file import SAEHeader, save_sae

MID, MID_TOO, UP = "random_mid.safetensors", "random_mid_too.safetensors", "random_up.safetensors"
CONCEPTS = (*FIRING, Concept("silent", "object", (9,)))
"""disc, box, wavy and grainy fire at about half of all positions; silent never does."""


def write_random_saes(folder: Path) -> None:
    """Two for the block in the middle and one for the last block with attention on the way up."""
    write_random_sae(folder / MID, "mid_block.attentions.0", "batchtopk", seed=1)
    write_random_sae(folder / MID_TOO, "mid_block.attentions.0", "jumprelu", seed=2)
    write_random_sae(folder / UP, "up_blocks.0.attentions.1", "topk", seed=3)


def write_random_sae(path: Path, hookpoint: str, activation: str = "relu", seed: int = 0, d: int = 128, **fields):
    """The header is one for ShapeCanvas unless `fields` say otherwise."""
    sae = random_sae(activation, d=d, n=256, k=100, seed=seed)
    sae.W_enc.mul_(4)  # so that every edit shows in the picture
    sae.b_enc[9] = -1e6
    statistics = random_statistics(CONCEPTS, seed)
    statistics = replace(statistics, overall=0.1 * statistics.overall, background=0.1 * statistics.background)
    header = SAEHeader(hookpoint, "ShapeCanvas", sae.config, concepts=CONCEPTS)
    save_sae(path, sae, replace(header, **fields), statistics)
