"""Erase Concept with ComfyUI's KSampler: what it changes, what it leaves alone, and when."""

import pytest
import torch

from with_comfyui.random_files import MID, MID_TOO, UP
from with_comfyui.sampling import differs, erase

MODES = ["scale", "ablate", "clamp", "replace"]


@pytest.fixture(scope="module")
def plain(model, sample) -> torch.Tensor:
    return sample(model)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sae", [MID, MID_TOO, UP])
def test_erasing_changes_the_picture_and_is_repeated_to_the_bit(model, sample, plain, sae, mode):
    erased = erase(model, "disc", sae, mode=mode)
    latents = sample(erased)
    assert latents.isfinite().all()
    assert differs(latents, plain)
    assert torch.equal(sample(erased), latents)
    assert torch.equal(sample(erase(model, "disc", sae, mode=mode)), latents)


@pytest.mark.parametrize("mode", MODES)
def test_an_image_without_the_concept_passes_through_bit_for_bit(model, sample, plain, mode):
    assert torch.equal(sample(erase(model, "silent", mode=mode)), plain)


def test_strength_0_is_no_node(model, sample, plain):
    assert erase(model, strength=0) is model
    assert torch.equal(sample(erase(erase(model, "disc"), "box", strength=0)), sample(erase(model, "disc")))


def test_a_higher_strength_changes_more(model, sample, plain):
    changes = [(sample(erase(model, strength=strength)) - plain).norm() for strength in (0.1, 0.5, 1.0)]
    assert changes == sorted(changes)


def test_the_whole_range_is_the_default(model, sample):
    assert torch.equal(sample(erase(model, start=0.0, end=1.0)), sample(erase(model)))


def test_a_range_that_no_step_falls_into_changes_nothing(model, sample, plain):
    assert torch.equal(sample(erase(model, start=0.98, end=0.99)), plain)


def test_each_half_of_the_sampling_can_be_edited_alone(model, sample, plain):
    first, second = erase(model, end=0.5), erase(model, start=0.5)
    whole = sample(erase(model))
    for half in (first, second):
        assert differs(sample(half), plain)
        assert not torch.equal(sample(half), whole)
    assert torch.equal(sample(erase(first, start=0.5)), whole)


@pytest.mark.parametrize("start, end", [(0.5, 0.5), (0.8, 0.2), (1.0, 0.0)])
def test_an_empty_range_is_refused(model, start, end):
    with pytest.raises(ValueError, match="start_percent.*must be smaller than end_percent"):
        erase(model, start=start, end=end)
