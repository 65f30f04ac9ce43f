"""Concept Guard: lets no picture through in which a concept was met."""

import math

import torch
from comfy_api.latest import io
from torch.nn import functional as F

from ...sae_ops.concepts import find_concept
from ..concept_names import split_names
from .concept_score import read_scores, threshold_input
from .watch_concepts import look_inputs

ACTIONS = ("black", "blur", "stop")
BLURRED_SIDE = 8
"""Pixels that are left of the shorter side of a blurred picture."""


class ConceptGuard(io.ComfyNode):
    """Blackens or blurs pictures in which a concept was met, or stops the run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAEEraser_ConceptGuard",
            display_name="Concept Guard",
            category="model/SAE Eraser",
            description="Blackens or blurs every picture in which one of the concepts was met, or stops the run.",
            search_aliases=["safety checker", "moderation", "filter", "censor", "SAE"],
            has_intermediate_output=True,  # else what it withheld is lost when ComfyUI has all pictures ready
            inputs=[
                io.Image.Input("image", tooltip="The decoded pictures of the latent."),
                *look_inputs(),
                io.String.Input(
                    "concepts",
                    multiline=True,
                    default="",
                    placeholder="star, neon",
                    tooltip="Concepts that must not be met, separated by commas.",
                ),
                threshold_input(),
                io.Combo.Input(
                    "action",
                    options=list(ACTIONS),
                    default="black",
                    tooltip="What becomes of a picture in which a concept was met. black or blur: it is blackened or "
                    "blurred. stop: the run ends with an error.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The pictures; those in which nothing was met as they came."),
                io.Boolean.Output("met", tooltip="Whether one of the concepts was met in one of the pictures."),
            ],
        )

    @classmethod
    def execute(cls, image, watch, latent, concepts, threshold, action) -> io.NodeOutput:
        known = watch.sae.header.concepts
        wanted = list(dict.fromkeys(find_concept(known, name) for name in split_names(concepts, known)))
        if not wanted:
            raise ValueError("No concept is named. Write for example: star, neon")
        if not math.isfinite(threshold):
            raise ValueError(f"The threshold is {threshold}, but must be a number. The lower, the more is withheld.")
        scores = read_scores(watch, latent, wanted)[:, wanted]
        is_video = latent["samples"].ndim == 5 and latent["samples"].shape[2] > 1  # its pictures go together
        if len(image) != len(scores) and not is_video:
            raise ValueError(
                f"There are {len(image)} pictures, but the latent has {len(scores)}. Connect the pictures that were "
                "decoded from this latent, all of them."
            )
        met = scores > threshold
        if action == "stop" and met.any():
            found = ", ".join(
                f"{known[index].name} ({score:.2f})"
                for index, score in zip(wanted, scores.amax(dim=0), strict=True)
                if score > threshold
            )
            raise ValueError(
                f"Concept Guard has stopped the run. It met: {found}; allowed is {threshold:g}. Change the prompt or "
                "the seed, or raise the threshold."
            )
        hidden = torch.zeros_like(image) if action == "black" else blurred(image)
        withheld = met.any().expand(len(image)) if is_video else met.any(dim=1)
        shown = torch.where(withheld.to(image.device)[:, None, None, None], hidden, image)
        text = met_text([known[index].name for index in wanted], scores, threshold)
        return io.NodeOutput(shown, bool(met.any()), ui={"withheld": withheld.tolist(), "text": (text,)})


def met_text(names: list[str], scores: torch.Tensor, threshold: float) -> str:
    """A line for each picture, or video, in which one of the concepts was met; scores [pictures, concepts]."""
    lines = []
    for number, own in enumerate(scores.tolist(), start=1):
        met = [f"{name} {score:.2f}" for name, score in zip(names, own, strict=True) if score > threshold]
        if met:
            lines.append(f"withheld, {number} of {len(scores)}: {', '.join(met)}")
    return "\n".join(lines) or "nothing was met"


def blurred(images: torch.Tensor) -> torch.Tensor:
    """Pictures [images, height, width, channels] of which only rough colours are left."""
    height, width = images.shape[1:3]
    scale = BLURRED_SIDE / min(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = F.adaptive_avg_pool2d(images.movedim(3, 1).cpu(), size)  # MPS cannot pool to sizes that do not divide
    return F.interpolate(small.to(images.device), (height, width), mode="bilinear").movedim(1, 3)
