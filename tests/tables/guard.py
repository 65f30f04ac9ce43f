"""Concept Guard in the tables: which pictures of a run it withholds."""

from collections.abc import Callable, Sequence

import torch
from comfy.model_patcher import ModelPatcher

from sae_eraser.nodes.files.sae_files import LoadedSAE
from sae_eraser.nodes.look.concept_score import THRESHOLD, read_scores
from sae_eraser.nodes.look.watching import watch
from sae_eraser.sae_ops.concepts import find_concept

Guard = Callable[[torch.Tensor], torch.Tensor]
"""The latents of one run as the sampler gave them -> which of its pictures are withheld, bool [pictures]."""


def guarded(model: ModelPatcher, sae: LoadedSAE, concepts: Sequence[str]) -> tuple[ModelPatcher, Guard]:
    """The watched model, and a guard against these concepts with the node's own threshold."""
    watched, seen = watch(model, sae)
    wanted = [find_concept(sae.header.concepts, concept) for concept in concepts]

    def guard(latents: torch.Tensor) -> torch.Tensor:
        return (read_scores(seen, {"samples": latents}, wanted)[:, wanted] > THRESHOLD).any(dim=1)

    return watched, guard
