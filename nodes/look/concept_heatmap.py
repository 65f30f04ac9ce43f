"""Concept Heatmap: where a concept fired, over the picture and over the steps."""

import math

import torch
from comfy_api.latest import io

from ...sae_ops.concepts import detecting_terms, find_concept
from ...sae_ops.scores import fired, relative
from ..even_spread import spread
from .concept_score import read_scores
from .heat_pictures import COLUMNS, enlarge, intensity, overlay, strip
from .watch_concepts import look_inputs


class ConceptHeatmap(io.ComfyNode):
    """Draws where a concept of a watched run fired."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAEEraser_ConceptHeatmap",
            display_name="Concept Heatmap",
            category="model/SAE Eraser",
            description="Shows where in the picture a concept fired while it was sampled, and at which steps.",
            search_aliases=["attribution", "attention map", "localise", "segment", "interpretability", "SAE"],
            inputs=[
                *look_inputs(),
                io.Image.Input("image", tooltip="The decoded pictures of the latent."),
                io.String.Input(
                    "concept", default="", tooltip="The concept to show. Leave it empty for the one met most."
                ),
            ],
            outputs=[
                io.Image.Output("overlay", tooltip="The pictures, with the heatmap over them."),
                io.Mask.Output("mask", tooltip="Share of the steps at which the concept fired at each place, 0 to 1."),
                io.Image.Output(
                    "steps",
                    tooltip="For each picture its maps from the first step on the left to the last on the right. Below "
                    "them a bar for every step: how strongly the concept fired; the white line is usual in pictures "
                    "that show it.",
                ),
            ],
        )

    @classmethod
    def execute(cls, watch, latent, image, concept) -> io.NodeOutput:
        concepts, statistics = watch.sae.header.concepts, watch.sae.statistics
        scores = read_scores(watch, latent, [] if concept.strip() else None)
        index = find_concept(concepts, concept) if concept.strip() else int(scores.amax(dim=0).argmax())
        run = watch.run_of(latent["samples"])
        z = as_pictures(run.z, latent["samples"].shape)
        if len(image) != z.shape[1]:
            raise ValueError(
                f"There are {len(image)} pictures, but the latent has {z.shape[1]}. Connect the pictures that were "
                "decoded from this latent, all of them."
            )
        terms = detecting_terms(concepts)[index]
        maps, usual = relative(z, run.sigmas, terms, statistics)  # [steps, images, height, width]; [steps]
        size = (image.shape[1], image.shape[2])
        heat = enlarge(intensity(maps.mean(dim=0)), size).to(image.device)
        mask = enlarge(fired(z, run.sigmas, terms, statistics).float().mean(dim=0), size)
        shown = spread(len(maps), COLUMNS)
        strips = torch.stack([strip(own, usual, shown) for own in maps.unbind(dim=1)])
        return io.NodeOutput(overlay(image[..., :3].float(), heat), mask, strips)


def as_pictures(z: torch.Tensor, latents: torch.Size) -> torch.Tensor:
    """z [steps, images, terms, (1,) height, width] of latents [images, ..., height, width], without frames.

    Raises ValueError if the positions are no map of one picture.
    """
    if z.dim() == 6 and z.shape[3] == 1:
        z = z[:, :, :, 0]
    if z.dim() != 5 or not _is_scaled_down(latents[-2:], z.shape[3:]):
        raise ValueError(
            "The vectors of this SAE's block are no map of one picture (a video, or pictures to go by among them), so "
            "there is no heatmap. Concept Score works for them."
        )
    return z


def _is_scaled_down(size: tuple[int, ...], smaller: tuple[int, ...]) -> bool:
    """Whether both sides of a map are those of the latents, divided by the same whole number and rounded up."""
    by = max(math.ceil(side / own) for side, own in zip(size, smaller, strict=True))
    return all(math.ceil(side / by) == own for side, own in zip(size, smaller, strict=True))
