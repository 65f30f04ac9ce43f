"""Tells the half of guidance with the prompt from that without, whichever guider has the model called.

ComfyUI numbers the chunks of a call by their place in the list that the guider asks for, which is not the same for all:
CFGGuider asks for the prompt first, Dual CFG Guider for it last, and some nodes ask for one half alone.
"""

from collections.abc import Iterable

import torch

UNPROMPTED = ("negative", "empty_negative_prompt")
"""What guiders call their conditionings of the half that is to be moved away from."""
ASKED, HALVES, MET = "sae_eraser_asked", "sae_eraser_halves", "sae_eraser_met"
"""Where these are in transformer_options."""


def note_prompts(executor, x, timestep, model_options, *args, **kwargs):
    """The wrapper around a guider's prediction; note_halves reads what it leaves in transformer_options."""
    conds = executor.class_obj.conds
    prompted = {prompt["uuid"]: name not in UNPROMPTED for name, prompts in conds.items() for prompt in prompts or ()}
    return executor(x, timestep, with_note(model_options, ASKED, prompted), *args, **kwargs)


def note_halves(executor, model, conds, x, timestep, model_options, *args, **kwargs):
    """The wrapper around what calls the model for some of these prompts; are_prompted reads what it leaves."""
    prompted = model_options.get("transformer_options", {}).get(ASKED, {})
    halves = tuple(_is_prompted(prompts or (), prompted, place == 0) for place, prompts in enumerate(conds))
    return executor(model, conds, x, timestep, with_note(model_options, HALVES, halves), *args, **kwargs)


def _is_prompted(prompts: Iterable[dict], prompted: dict, default: bool) -> bool:
    return next((prompted[prompt["uuid"]] for prompt in prompts if prompt.get("uuid") in prompted), default)


def are_prompted(options: dict) -> torch.Tensor:
    """Of the transformer_options of one call: whether each of its chunks reads the prompt, bool [chunks] on the CPU."""
    chunks, halves = options["cond_or_uncond"], options.get(HALVES)
    return torch.tensor([halves[chunk] if halves else chunk == 0 for chunk in chunks])


class NeedsUnprompted:
    """Wraps one run of a sampler, in which the model must be called for the half without the prompt."""

    def __init__(self, message: str):
        """message: of the ValueError that is raised after a run in which it never was."""
        self.message = message

    def __call__(self, executor, *args, **kwargs):
        met: set[bool] = set()  # what note_met finds
        guider = executor.class_obj
        guider.model_options = with_note(guider.model_options, MET, met)
        latents = executor(*args, **kwargs)
        if met == {True}:
            raise ValueError(self.message)
        return latents


def note_met(options: dict) -> None:
    """With the transformer_options of one call: tells NeedsUnprompted which halves it has."""
    if MET in options:
        options[MET].update(are_prompted(options).tolist())


def with_note(model_options: dict, key: str, note: object) -> dict:
    """The model_options with something that wrappers and hooks find in transformer_options."""
    return model_options | {"transformer_options": model_options.get("transformer_options", {}) | {key: note}}
