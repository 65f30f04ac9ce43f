"""Shares of the sampling, 0 to 1, as a model's noise levels (sigmas)."""

import math

import torch
from comfy.model_patcher import ModelPatcher


def sigma_range(model: ModelPatcher, start_percent: float, end_percent: float) -> tuple[float, float]:
    """Start and end of sampling (0 to 1) as noise levels, which fp32 can hold as a sampler's can.

    Raises ValueError if the start is not before the end.
    """
    if start_percent >= end_percent:
        raise ValueError(f"start_percent ({start_percent}) must be smaller than end_percent ({end_percent}).")
    sampling = model.get_model_object("model_sampling")
    start, end = (float(sampling.percent_to_sigma(percent)) for percent in (start_percent, end_percent))
    start = start if start_percent > 0 else math.inf  # rounding puts some first steps above the model's highest
    start, end = torch.tensor([start, end if end_percent < 1 else 0.0]).tolist()
    return start, end


def noise_schedule(model: ModelPatcher) -> tuple[float, ...]:
    """The noise levels at some shares of the sampling, by which is_same_schedule compares schedules."""
    sampling = model.get_model_object("model_sampling")
    return tuple(float(sampling.percent_to_sigma(percent)) for percent in (0.2, 0.4, 0.6, 0.8))


def is_same_schedule(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two noise schedules are equal but for rounding: a GPU works one out a little differently than the CPU."""
    return all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(one, other, strict=True))
