"""What a run of a sampler must have for an erasure to act in it as was asked; else it ends with an error.

That no step lies in the part that was asked for is only logged: another sampler may have steps there.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from comfy.patcher_extension import WrappersMP

from .halves import with_note
from .noise_levels import is_same_schedule, noise_schedule

CALLS = "sae_eraser_calls"
"""Where the calls of the model in a run are, in transformer_options."""

NO_STEP = (
    "SAE Eraser: concepts are to be changed in a part of the sampling in which no step lies, so nothing was changed. "
    "Move start_percent and end_percent apart, or sample with more steps."
)
OUTSIDE = (
    "SAE Eraser: all steps of this sampler lie outside the part in which concepts are to be changed (start_percent to "
    "end_percent), so it changed nothing."
)
OTHER_SCHEDULE = (
    "A node behind SAE Eraser's changes the noise schedule (ModelSamplingSD3, for instance), so start_percent and "
    "end_percent would mean another part of the sampling. Put that node before those of SAE Eraser."
)
UNPROMPTED_MISSING = (
    "A concept is to be changed in the negative prompt's half of guidance alone (branch uncond), but the model was not "
    "called for that half, so it was not changed at all. Set cfg above 1, or the node's branch to both."
)
CACHED = (
    "Concepts are to be changed from this step on, but another node (LazyCache, for instance) answers with what the "
    "model gave before, when they were not. Take that node out, or let the change begin with the sampling."
)


@dataclass(frozen=True)
class Need:
    """What one erasure needs of a sampler's run; called as a wrapper around it."""

    branch: str
    sigma_start: float
    """It acts at noise levels between sigma_start and sigma_end, both included."""
    sigma_end: float
    schedule: tuple[float, ...] | None
    """The noise_schedule in which a node's start_percent and end_percent became these levels; None if they hold in any,
    or are a keyframe's."""

    def __call__(self, executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        """Raises ValueError, before the run or after it."""
        guider = executor.class_obj
        if self.schedule and not is_same_schedule(self.schedule, noise_schedule(guider.model_patcher)):
            raise ValueError(OTHER_SCHEDULE)
        # Another's too, if there is one; lists are copied by ComfyUI.
        calls = guider.model_options.get("transformer_options", {}).get(CALLS, deque())
        guider.model_options = _with_outermost(with_note(guider.model_options, CALLS, calls), self.predict)
        latents = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        met = [half for levels, prompted in calls if self._acts_at(levels) for half in prompted.tolist()]
        if self.schedule and not met:
            if sigmas.max() > self.sigma_start and sigmas.min() <= self.sigma_end:
                logging.warning(NO_STEP)
            else:
                logging.info(OUTSIDE)
        if met and all(met) and self.branch == "uncond":
            raise ValueError(UNPROMPTED_MISSING)
        return latents

    def predict(self, executor, x, timestep, model_options, *args, **kwargs):
        """Around one prediction of a guider. Raises ValueError if it is made of one without the erasure."""
        calls = model_options["transformer_options"][CALLS]
        before = len(calls)
        predicted = executor(x, timestep, model_options, *args, **kwargs)
        if len(calls) == before and self._acts_at(timestep) and not (calls and self._acts_at(calls[-1][0])):
            raise ValueError(CACHED)
        return predicted

    def _acts_at(self, sigmas: torch.Tensor) -> bool:
        return bool(((sigmas <= self.sigma_start) & (sigmas >= self.sigma_end)).any())


def _with_outermost(model_options: dict, predict: Callable) -> dict:
    """The model_options with this around a guider's prediction and all that other nodes have put around it."""
    wrappers = model_options["transformer_options"].get("wrappers", {})
    around = {predict: [predict]} | wrappers.get(WrappersMP.PREDICT_NOISE, {})
    return with_note(model_options, "wrappers", wrappers | {WrappersMP.PREDICT_NOISE: around})


def note_call(options: dict, sigmas: torch.Tensor, prompted: torch.Tensor) -> None:
    """Tells every Need of one call of the model: its transformer_options, noise levels and are_prompted."""
    if CALLS in options:
        options[CALLS].append((sigmas, prompted))
