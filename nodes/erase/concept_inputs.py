"""Inputs that the nodes share which erase or strengthen concepts, and what they make of them."""

import logging

import torch
from comfy_api.latest import io

from ...sae_ops.concepts import find_concept
from ...sae_ops.erasure import BRANCHES, MODES, PAPER_COMPAT
from ..files.sae_files import NONE_INSTALLED, LoadedSAE, fingerprint, list_erasing_saes, open_sae

NO_CONCEPT = "no concept"
"""Stands in an empty list, since ComfyUI takes a list without a choice for a missing connection."""


def model_input() -> io.Input:
    """The MODEL that is patched."""
    return io.Model.Input("model", tooltip="The model that samples. It is not changed; the output is a patched copy.")


def sae_input(tooltip: str) -> io.Input:
    """The dropdown of SAE files, with that of their concepts, whose tooltip is given."""
    files = list_erasing_saes() or {NONE_INSTALLED: ()}

    def concept_input(concepts: tuple[str, ...]) -> io.Input:
        return io.Combo.Input("concept", options=list(concepts) or [NO_CONCEPT], tooltip=tooltip)

    options = [io.DynamicCombo.Option(name, [concept_input(concepts)]) for name, concepts in files.items()]
    return io.DynamicCombo.Input("sae", options=options, tooltip="A file from models/sae, made for this model.")


def open_choice(node: type[io.ComfyNode], sae: dict | None) -> tuple[LoadedSAE, int]:
    """The chosen file, and the index of the chosen concept. Raises SAEFileError or UnknownConcept.

    The node must ask for the hidden inputs prompt and unique_id.
    """
    if sae is None:  # ComfyUI leaves the input out if its file is not in the list
        inputs = node.hidden.prompt[node.hidden.unique_id]["inputs"]
        sae = {"sae": inputs.get("sae", ""), "concept": inputs.get("sae.concept", "")}
    loaded = open_sae(sae["sae"])
    return loaded, find_concept(loaded.header.concepts, str(sae.get("concept", "")))


def fingerprint_choice(sae: dict | None) -> tuple | None:
    """Fingerprint of the chosen file: changes when the file does; None if the list has no such file.

    Raises SAEFileError if the file is gone.
    """
    return fingerprint(sae["sae"]) if sae else None


def strength_input(more: str = "") -> io.Input:
    """The strength of erasing; `more` is added to its tooltip."""
    tooltip = "How strongly to erase: 0 changes nothing, 1 erases. If something of the concept is left, try 1.5 or 2."
    return io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.05, tooltip=tooltip + more)


def percent_inputs(verb: str) -> list[io.Input]:
    """start_percent and end_percent, which sigma_range reads; verb: what the node does, for the tooltips."""
    percent = {"min": 0.0, "max": 1.0, "step": 0.001, "advanced": True}
    return [
        io.Float.Input("start_percent", default=0.0, tooltip=f"{verb} from this share of the sampling on.", **percent),
        io.Float.Input("end_percent", default=1.0, tooltip=f"{verb} up to this share of the sampling.", **percent),
    ]


def mode_input(paper_compat: bool = True) -> io.Input:
    """How an erasure edits; paper_compat: whether that mode, which PaperEdit alone has, is offered as well."""
    tooltip = (
        "How the concept is changed where it fires. turn: turn the activations away from it, at their length. scale: "
        "multiply its latents, as SAeUron does. ablate: set them to zero. clamp: set them to their mean in pictures "
        "without the concept. replace: copy neighbouring positions."
    )
    if paper_compat:
        tooltip += (
            " paper_compat: SAeUron's published edit with its mistakes, which change the whole picture; for comparison."
        )
    options = [*MODES, PAPER_COMPAT] if paper_compat else list(MODES)
    return io.Combo.Input("mode", options=options, default="turn", advanced=True, tooltip=tooltip)


def branch_input(default: str = "both") -> io.Input:
    """The half of guidance to edit, or both."""
    return io.Combo.Input(
        "branch",
        options=list(BRANCHES),
        default=default,
        advanced=True,
        tooltip="Which half of classifier-free guidance is edited: the positive prompt's (cond), the negative "
        "prompt's (uncond), or both.",
    )


def mask_input(verb: str) -> io.Input:
    """The optional MASK, which read_mask reads; verb as in percent_inputs."""
    return io.Mask.Input(
        "mask",
        optional=True,
        tooltip=f"{verb} only where it is white, and half as much where it is grey. It is stretched over the picture; "
        "a batch has one mask for each picture. Without a mask: everywhere.",
    )


def read_mask(mask: torch.Tensor | None) -> torch.Tensor | None:
    """A MASK [height, width] or [masks, height, width] -> fp32 [masks, height, width] in 0 to 1.

    Raises ValueError if it is none, is of another shape, or holds NaN.
    """
    if mask is None:
        return None
    if not isinstance(mask, torch.Tensor):
        raise ValueError(f"The mask is {mask!r:.80}, but must be a MASK of another node.")
    if mask.ndim not in (2, 3) or 0 in mask.shape or mask.isnan().any():
        raise ValueError(
            f"This mask, of shape {tuple(mask.shape)}, cannot be used: it must have a height and a width, or be a "
            "batch of such masks, without NaN."
        )
    if not (mask > 0).any():
        logging.warning("SAE Eraser: a mask is black everywhere, so no concept is changed.")
    return mask.reshape(-1, *mask.shape[-2:]).float().clamp(0, 1)
