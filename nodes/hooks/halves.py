"""Tells the half of guidance with the prompt from that without, whichever guider has the model called.

ComfyUI numbers the chunks of a call by their place in the list that the guider asks for, which is not the same for all:
CFGGuider asks for the prompt first, Dual CFG Guider for it last, and some nodes ask for one half alone.
"""

import torch

UNPROMPTED = ("negative", "empty_negative_prompt")
"""What guiders call their conditionings of the half that is to be moved away from."""
ASKED, HALVES = "sae_eraser_asked", "sae_eraser_halves"
"""Where these are in transformer_options."""


def note_prompts(executor, x, timestep, model_options, *args, **kwargs):
    """The wrapper around a guider's prediction; note_halves reads what it leaves in transformer_options."""
    prompted = {id(prompts): name not in UNPROMPTED for name, prompts in executor.class_obj.conds.items()}
    return executor(x, timestep, with_note(model_options, ASKED, prompted), *args, **kwargs)


def note_halves(executor, model, conds, x, timestep, model_options, *args, **kwargs):
    """The wrapper around what calls the model for some of these prompts; are_prompted reads what it leaves."""
    prompted = model_options.get("transformer_options", {}).get(ASKED, {})
    halves = tuple(prompted.get(id(prompts), place == 0) for place, prompts in enumerate(conds))
    return executor(model, conds, x, timestep, with_note(model_options, HALVES, halves), *args, **kwargs)


def are_prompted(options: dict, device: torch.device) -> torch.Tensor:
    """Of the transformer_options of one call: whether each of its chunks reads the prompt, bool [chunks]."""
    chunks, halves = options["cond_or_uncond"], options.get(HALVES)
    return torch.tensor([halves[chunk] if halves else chunk == 0 for chunk in chunks], device=device)


def with_note(model_options: dict, key: str, note: object) -> dict:
    """The model_options with something that wrappers and hooks find in transformer_options."""
    return model_options | {"transformer_options": model_options.get("transformer_options", {}) | {key: note}}
