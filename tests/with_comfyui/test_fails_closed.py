"""Where concepts cannot be erased, sampling stops with a message instead of drawing them."""

import copy
import math

import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy.samplers import KSAMPLER, CFGGuider, calc_cond_batch

from sae_eraser.nodes.erase.erase_concept import EraseConcept
from sae_eraser.nodes.erase.erase_concept_from_text import EraseConceptFromText
from sae_eraser.nodes.erase.erase_concept_hook import EraseConceptHook
from with_comfyui.random_files import MID
from with_comfyui.sampling import differs, encode, erase


def test_a_step_in_which_the_block_does_not_run_is_an_error(model, sample):
    """As when another node answers from a cache."""
    plain = sample(model)
    patched = erase(model)
    patched.add_wrapper_with_key(
        WrappersMP.DIFFUSION_MODEL, "another node", lambda executor, x, *args, **kwargs: torch.zeros_like(x)
    )
    with pytest.raises(RuntimeError, match="block mid_block.attentions.0.*did not run.*take that node out"):
        sample(patched)
    assert torch.equal(sample(model), plain)


def test_pictures_that_go_through_a_copy_of_the_model_are_an_error(model, sample, monkeypatch):
    """As with nodes that share a batch among several GPUs."""
    plain, diffusion_model = sample(model, images=2, cfg=1.0), model.model.diffusion_model
    forward, replica = diffusion_model.forward, copy.deepcopy(diffusion_model)

    def shared(x, timesteps, context, *args, **kwargs):
        halves = zip((forward, replica), x.chunk(2), timesteps.chunk(2), context.chunk(2), strict=True)
        return torch.cat([run(*inputs, *args, **kwargs) for run, *inputs in halves])

    monkeypatch.setattr(diffusion_model, "forward", shared)
    assert not differs(sample(model, images=2, cfg=1.0), plain)
    for sampling in ({"images": 2, "cfg": 1.0}, {"images": 1, "cfg": 3.0}):
        with pytest.raises(RuntimeError, match="did not run for every picture of this step.*a copy of the model"):
            sample(erase(model), **sampling)


@pytest.mark.parametrize("put", ["something else", "nothing"])
def test_another_module_in_the_place_of_the_block_is_an_error(model, sample, put):
    """As First Block Cache puts all blocks there, and AnimateDiff a motion module before it."""
    erased, plain, blocks = erase(model), sample(model), model.model.diffusion_model.middle_block

    def swapped(apply, call):
        layers = list(blocks)
        blocks[1] = torch.nn.Sequential(*layers[1:])
        if put == "nothing":
            del blocks[1:]
        try:
            return apply(call["input"], call["timestep"], **call["c"])
        finally:
            del blocks[:]
            blocks.extend(layers)

    other = erased.clone()
    other.set_model_unet_function_wrapper(swapped)
    with pytest.raises(RuntimeError, match="something else in the place of the block mid_block.attentions.0"):
        sample(other)
    assert torch.equal(sample(model), plain)


PAST = "block mid_block.attentions.0.*ran in a call of the model that goes past ComfyUI's wrappers.*take the node out"


@pytest.mark.parametrize("how", ["apply_model", "diffusion_model", "calc_cond_batch"])
@pytest.mark.parametrize("start", [0.0, 0.05])
def test_a_sampler_that_calls_the_model_in_its_own_way_is_an_error(world, model, how, start):
    def own(outer, x, sigmas, extra_args, **kwargs):
        guider, sigma = outer.inner_model, sigmas[0].expand(len(x))
        inner, prompts = guider.inner_model, guider.conds["positive"]
        context = prompts[0]["model_conds"]["c_crossattn"].cond
        if how == "apply_model":
            return inner.apply_model(x, sigma, c_crossattn=context)
        if how == "diffusion_model":
            return inner.diffusion_model(x, inner.model_sampling.timestep(sigma).float(), context=context)
        return calc_cond_batch(inner, [prompts], x, sigma, {})[0]

    def draw(patched):
        guider = CFGGuider(patched)
        guider.set_conds(encode(world.clip, "a star"), encode(world.clip, ""))
        noise, sigmas = torch.ones(1, 16, 8, 8), torch.tensor([10.0, 0.0])
        return guider.sample(noise, torch.zeros_like(noise), KSAMPLER(own), sigmas)

    draw(model)
    with pytest.raises(RuntimeError, match=PAST):
        draw(erase(model, start=start))
    draw(model)


def test_another_node_that_predicts_anew_without_the_erasure_is_an_error(model, sample):
    def anew(arguments):
        cond, uncond, x, sigma = (arguments[name] for name in ("cond", "uncond", "input", "sigma"))
        return calc_cond_batch(arguments["model"], [cond, uncond], x, sigma, {})[0]

    def with_anew(patched):
        patched = patched.clone()
        patched.set_model_sampler_post_cfg_function(anew)
        return patched

    sample(with_anew(model))
    with pytest.raises(RuntimeError, match=PAST):
        sample(with_anew(erase(model)))


def test_a_call_without_its_noise_level_is_an_error(model, sample):
    patched = erase(model)
    comfy.model_management.load_models_gpu([patched])
    with pytest.raises(RuntimeError, match="without its noise level.*ComfyUI's samplers"):
        patched.model.apply_model(
            torch.zeros(1, 16, 8, 8),
            torch.ones(1),
            c_crossattn=torch.zeros(1, 32, 48),
            transformer_options={"wrappers": patched.wrappers, "cond_or_uncond": [0]},
        )


@pytest.mark.parametrize("strength", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("node", ["model", "hook", "text"])
def test_a_strength_that_would_erase_nothing_is_an_error(world, model, node, strength):
    """ComfyUI checks ranges only of what is typed in, and NaN passes even there."""
    choice = {"sae": MID, "concept": "disc"}
    with pytest.raises(ValueError, match="strength is"):
        if node == "model":
            erase(model, strength=strength)
        elif node == "hook":
            EraseConceptHook.execute(strength, "turn", sae=choice)
        else:
            EraseConceptFromText.execute(world.clip, strength, "turn", sae=choice)


def test_a_mask_that_is_black_everywhere_is_noted(model, caplog):
    mask = torch.zeros(1, 64, 64)
    EraseConcept.execute(model, 1.0, 0.0, 1.0, "turn", "both", {"sae": MID, "concept": "disc"}, mask)
    assert "mask is black everywhere" in caplog.text
