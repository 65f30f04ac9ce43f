"""Samplers that call the model once a step, several times, or with noise of their own; and several in one workflow."""

import logging

import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingSD3

from sae_eraser.nodes.hooks.block_hooks import get_hooks, resolve_hookpoint, with_hooks
from sae_eraser.nodes.hooks.forward_hooks import BlockHook
from sae_eraser.nodes.hooks.noise_levels import sigma_range
from sae_eraser.nodes.locate.exchanging import Exchange
from sae_eraser.sae_ops.erasure import PAPER_COMPAT
from with_comfyui.random_files import UP
from with_comfyui.sampling import differs, encode, erase, sample_within_a_sampling

SAMPLERS = ["euler", "euler_ancestral", "heun", "dpm_2", "dpmpp_2s_ancestral", "dpmpp_2m", "dpmpp_sde", "uni_pc"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_call_is_edited_with_the_noise_level_it_has(model, sample, sampler):
    """heun and others call the model at noise levels between the steps; none may be guessed by counting."""
    asked, seen = [], []

    def ask(apply_model, arguments):
        asked.append(arguments["timestep"])
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    def hook(x, sigma, is_cond):
        seen.append(sigma)
        assert sigma.shape == is_cond.shape == (len(x),)
        return x

    hooked = with_hooks(model, (BlockHook(resolve_hookpoint(model, "mid_block.attentions.0"), "output", hook),))
    hooked.set_model_unet_function_wrapper(ask)
    sample(hooked, sampler=sampler, images=2)
    assert torch.equal(torch.stack(seen), torch.stack(asked))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_erases_and_repeats_itself(model, sample, sampler):
    erased = erase(model)
    first = sample(erased, sampler=sampler)
    assert differs(first, sample(model, sampler=sampler))
    assert torch.equal(sample(erased, sampler=sampler), first)


@pytest.mark.parametrize("shift", [1.5, 1.57, 2.64])
def test_the_first_step_of_a_flow_model_is_erased(model, shift):
    """Rounding makes its noise level a little more than 1 at some shifts, the highest that ComfyUI knows."""
    first = flow(model, shift).get_model_object("model_sampling").sigmas[-1]
    (hook,) = get_hooks(erase(flow(model, shift), mode="ablate"))
    x = torch.randn(1, 128, 4, 4, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(hook.function(x, first[None], torch.tensor([True])), x)


@pytest.mark.parametrize("percent", [0.25, 0.35, 0.4, 0.6, 0.9, 0.95])
def test_a_step_at_a_boundary_is_within_it_for_everything_that_asks(model, percent):
    """ComfyUI computes the boundary of a flow model in double precision, but a step's noise level is fp32."""
    patched, is_cond = flow(model, 1.0), torch.tensor([True])
    step = torch.tensor([patched.get_model_object("model_sampling").percent_to_sigma(percent)], dtype=torch.float32)
    x = 10 * torch.randn(1, 128, 4, 4, generator=torch.Generator().manual_seed(0))
    for part in ({"start": percent}, {"end": percent}):
        for mode in ("ablate", PAPER_COMPAT):
            (hook,) = get_hooks(erase(patched, mode=mode, **part))
            assert not torch.equal(hook.function(x, step, is_cond), x)
        exchange = Exchange(*sigma_range(patched, part.get("start", 0.0), part.get("end", 1.0)))
        exchange(x.expand(4, -1, -1, -1), step.expand(4), is_cond.expand(4))
        assert exchange.sigmas == step.tolist()


def test_a_part_of_the_sampling_in_which_no_step_lies_is_noted(comfyui, world, model, sample, caplog):
    erased = erase(model, start=0.8, end=0.85)
    assert torch.equal(sample(erased, steps=4), sample(model, steps=4))
    assert "no step lies, so nothing was changed. Move start_percent and end_percent apart" in caplog.text
    caplog.clear()
    sample(erased, steps=20)
    # Of two runs one after the other, as of base and refiner, each has but a part.
    conditioning = [encode(world.clip, text) for text in ("a star", "")]
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    for start, end in ((0, 4), (4, 8)):
        arguments = ("enable", 1, 8, 3.0, "euler", "normal", *conditioning, latent, start, end, "enable")
        latent = comfyui.nodes.KSamplerAdvanced().sample(erase(model, start=0.6), *arguments)[0]
    assert "no step" not in caplog.text
    assert "all steps of this sampler lie outside the part" not in caplog.text
    with caplog.at_level(logging.INFO):
        sampled = [sample(each, denoise=0.5) for each in (erase(model, end=0.3), model)]
    assert torch.equal(*sampled)
    assert "all steps of this sampler lie outside the part in which concepts are to be changed" in caplog.text


def test_a_noise_schedule_that_changes_behind_the_node_is_an_error(model, sample):
    """The shares of the sampling would be those of another one."""
    for start in (0.0, 0.5):
        before, behind = erase(flow(model, 8.0), start=start), flow(erase(model, start=start), 8.0)
        if start:
            with pytest.raises(ValueError, match="ModelSamplingSD3.* Put that node before those of SAE Eraser"):
                sample(behind)
            assert differs(sample(before), sample(flow(model, 8.0)))
        else:
            assert torch.equal(sample(behind), sample(before))
    with pytest.raises(ValueError, match="ModelSamplingSD3"):
        sample(flow(erase(flow(model, 8.0), start=0.5), 8.1))  # by a little


def flow(model, shift: float):
    """The model as of a flow with this shift."""
    return ModelSamplingSD3().patch(model, shift)[0]


def test_samplers_with_other_steps_share_a_patched_model(model, sample):
    erased = erase(erase(model, end=0.7), sae=UP)
    workflow = [("euler", 5), ("heun", 3), ("dpmpp_2s_ancestral", 4), ("euler", 2), ("dpmpp_2m", 5), ("euler", 5)]
    alone = [sample(erase(erase(model, end=0.7), sae=UP), sampler=sampler, steps=steps) for sampler, steps in workflow]
    for (sampler, steps), expected in zip(workflow, alone, strict=True):
        assert torch.equal(sample(erased, sampler=sampler, steps=steps), expected)


@pytest.mark.parametrize("branch", ["both", "cond", "uncond"])
def test_a_sampling_within_another_one_is_erased(world, model, branch):
    erased = erase(model, branch=branch)
    nested = sample_within_a_sampling(world.clip, erased)
    alone = sample_within_a_sampling(world.clip, erased, nested=False)
    torch.testing.assert_close(nested, alone, rtol=0.1, atol=0.1)
    assert differs(nested, sample_within_a_sampling(world.clip, model))


def test_a_second_pass_continues_the_first(comfyui, world, model):
    """KSampler (Advanced) twice, 2 and 2 of 4 steps, as in a hires workflow: the same as all 4 at once."""
    conditioning = [comfyui.nodes.CLIPTextEncode().encode(world.clip, text)[0] for text in ("a star", "")]
    erased = erase(model)

    def steps(latent, start, end, add_noise):
        node = comfyui.nodes.KSamplerAdvanced()
        leftover = "enable" if end < 4 else "disable"
        arguments = (erased, add_noise, 1, 4, 3.0, "euler", "normal", *conditioning, latent, start, end, leftover)
        return node.sample(*arguments)[0]

    empty = {"samples": torch.zeros(1, 16, 8, 8)}
    once = steps(empty, 0, 4, "enable")
    twice = steps(steps(empty, 0, 2, "enable"), 2, 4, "disable")
    torch.testing.assert_close(twice["samples"], once["samples"], rtol=1e-4, atol=1e-4)
