"""Tells the half of guidance with the prompt from that without, whichever guider has the model called.

ComfyUI numbers the chunks of a call by their place in the list that the guider asks for, which is not the same for all:
CFGGuider asks for the prompt first, Dual CFG Guider for it last, and some nodes ask for one half alone.
"""

from dataclasses import dataclass

import torch

UNPROMPTED = "negative"
"""In what guiders call their conditionings of the half that is to be moved away from."""
ASKED, HALVES = "sae_eraser_asked", "sae_eraser_halves"
"""Where these are in transformer_options."""
TAKE_OUT = (
    "Take that node out, or set branch to both in all nodes that erase or strengthen (which does not help if concepts "
    "are watched, collected or located)."
)


@dataclass(frozen=True)
class Halves:
    """Which half of guidance each chunk of the model's calls is for."""

    prompted: tuple[bool, ...]
    """Whether each of the conditionings that a chunk may be for reads the prompt."""
    known: tuple[bool, ...]
    """Whether each is the guider's; some nodes bring another."""
    names: tuple[str | None, ...]
    """What the guider calls each; None if it is not known."""
    images: int
    """In a chunk."""


def note_prompts(executor, x, timestep, model_options, *args, **kwargs):
    """The wrapper around a guider's prediction; note_halves reads what it leaves in transformer_options."""
    conds = executor.class_obj.original_conds  # to the others ComfyUI adds one half's areas under the other's names
    asked = {prompt["uuid"]: name for name, prompts in conds.items() for prompt in prompts or ()}
    return executor(x, timestep, with_note(model_options, ASKED, asked), *args, **kwargs)


def note_halves(executor, model, conds, x, timestep, model_options, *args, **kwargs):
    """The wrapper around what calls the model for some of these prompts; are_prompted reads what it leaves."""
    asked = model_options.get("transformer_options", {}).get(ASKED, {})
    names = tuple(
        next((asked[prompt["uuid"]] for prompt in prompts or () if prompt.get("uuid") in asked), None)
        for prompts in conds
    )
    prompted = tuple(UNPROMPTED not in name if name else place == 0 for place, name in enumerate(names))
    known = tuple(name is not None or not asked for name in names)
    halves = Halves(prompted, known, names, len(x))
    return executor(model, conds, x, timestep, with_note(model_options, HALVES, halves), *args, **kwargs)


def are_prompted(options: dict) -> torch.Tensor:
    """Whether each chunk of one call reads the prompt, bool [chunks] on the CPU; options: its transformer_options."""
    chunks, halves = options["cond_or_uncond"], options.get(HALVES)
    return torch.tensor([halves.prompted[chunk] if halves else chunk == 0 for chunk in chunks])


def check_images(images: int, options: dict, prompted: torch.Tensor) -> None:
    """Raises RuntimeError if the half of each image of one call cannot be known; prompted as of are_prompted."""
    halves = options.get(HALVES)
    if halves and not all(halves.known[chunk] for chunk in options["cond_or_uncond"]):
        raise RuntimeError(
            "Another node calls the diffusion model with a prompt of its own (the old PerpNeg, for instance), so SAE "
            f"Eraser cannot tell which half of guidance that is. {TAKE_OUT}"
        )
    of_each = halves.images if halves else images // len(prompted)
    if images != of_each * len(prompted) and not (prompted == prompted[0]).all():
        raise RuntimeError(
            f"Another node calls the diffusion model for {images} pictures at once, where ComfyUI asks for both halves "
            f"of guidance of {of_each}, so SAE Eraser cannot tell which of them read the prompt. {TAKE_OUT}"
        )


def with_note(model_options: dict, key: str, note: object) -> dict:
    """The model_options with something that wrappers and hooks find in transformer_options."""
    return model_options | {"transformer_options": model_options.get("transformer_options", {}) | {key: note}}
