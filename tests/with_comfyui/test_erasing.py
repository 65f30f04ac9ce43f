"""Erase Concept with ComfyUI's KSampler: what it changes, what it leaves alone, and when."""

import pytest
import torch

from sae_eraser.nodes.hooks.block_hooks import get_hooks
from with_comfyui.random_files import MID, MID_TOO, UP, write_random_sae
from with_comfyui.sampling import differs, erase
from with_comfyui.small_models import call_model

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


def test_an_sae_of_what_a_block_adds_edits_that_alone(model, comfyui):
    """As those of sdxl-unbox: output minus input is edited, and the input passes."""
    write_random_sae(comfyui.base / "models" / "sae" / "adds.safetensors", "mid_block.attentions.0", hooked="residual")
    inputs = {"x": torch.ones(1, 16, 8, 8), "sigma": torch.ones(1), "c_crossattn": torch.ones(1, 32, 48)}

    def around_the_block(patched) -> list[torch.Tensor]:
        seen = []
        _, block, following = patched.model.diffusion_model.middle_block
        handles = [
            layer.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for layer in (block, following)
        ]
        call_model(patched, **inputs)
        for handle in handles:
            handle.remove()
        return seen

    erased = erase(model, sae="adds.safetensors")
    (before, output), (_, edited) = around_the_block(model), around_the_block(erased)
    (hook,) = get_hooks(erased)
    expected = before + hook.function(output - before, inputs["sigma"], torch.tensor([True]))
    assert differs(expected, output)
    torch.testing.assert_close(edited, expected, rtol=1e-4, atol=1e-4)


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
