"""Inputs that the nodes share which sample pictures themselves; named as the arguments of prompt_batch."""

import comfy.samplers
from comfy_api.latest import io


def sampling_inputs(steps: int, about_samplers: str) -> list[io.Input]:
    """The inputs that say how to sample; steps: the default. about_samplers: the tooltip of sampler_name."""
    size = {"default": 512, "min": 16, "max": 8192, "step": 8}
    return [
        io.Int.Input("steps", default=steps, min=1, max=1000, tooltip="Number of steps of the sampler."),
        io.Float.Input(
            "cfg", default=7.0, min=0.0, max=30.0, step=0.1, tooltip="Strength of classifier-free guidance."
        ),
        io.Combo.Input(
            "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="euler", tooltip=about_samplers
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.KSampler.SCHEDULERS,
            default="normal",
            tooltip="How the noise levels of the steps are chosen.",
        ),
        io.Int.Input("width", tooltip="Width of the pictures, in pixels.", **size),
        io.Int.Input("height", tooltip="Height of the pictures, in pixels.", **size),
    ]


def first_seed_input(tooltip: str, advanced: bool = False) -> io.Input:
    return io.Int.Input("first_seed", default=0, min=0, max=2**48, advanced=advanced, tooltip=tooltip)
