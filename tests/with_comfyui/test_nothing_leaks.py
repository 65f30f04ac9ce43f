"""Whatever happens while a patched model samples, the model given stays as it was, and nothing outlives its use."""

import gc
import weakref

import comfy.model_management
import folder_paths
import pytest
import torch
from comfy.model_management import InterruptProcessingException

from sae_eraser.nodes.hooks.block_hooks import get_hooks
from with_comfyui.random_files import UP
from with_comfyui.sampling import differs, erase


def fail(options):
    raise RuntimeError("another node fails")


def interrupt(options):
    comfy.model_management.interrupt_current_processing()
    comfy.model_management.throw_exception_if_processing_interrupted()


def at_call(model, number: int, action):
    """A clone that does `action` in the middle of a call of the diffusion model, while the pack's hooks are on it."""
    calls = []

    def patch(h, skip, options):
        calls.append(options["block"])
        if len(calls) == number:
            action(options)
        return h, skip

    clone = model.clone()
    clone.set_model_output_block_patch(patch)
    return clone


@pytest.mark.parametrize("number", [1, 6])
@pytest.mark.parametrize("action, error", [(fail, RuntimeError), (interrupt, InterruptProcessingException)])
def test_after_an_error_or_an_interrupt_the_plain_model_draws_what_it_drew_before(model, sample, number, action, error):
    plain, erased = sample(model), sample(erase(model))
    with pytest.raises(error):
        sample(at_call(erase(model), number, action))
    assert torch.equal(sample(model), plain)
    assert torch.equal(sample(erase(model)), erased)


def test_the_blocks_of_the_model_carry_no_hooks_after_sampling(model, sample):
    sample(erase(erase(model), sae=UP))
    modules = model.model.diffusion_model.modules()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


@pytest.mark.parametrize("patched_first", [True, False])
def test_a_patched_and_a_plain_branch_of_one_model_do_not_meet(model, sample, patched_first):
    plain, erased = sample(model), sample(erase(model))
    assert differs(plain, erased)
    branches = [(erase(model), erased), (model.clone(), plain)]
    for branch, expected in branches if patched_first else reversed(branches):
        assert torch.equal(sample(branch), expected)


def test_the_model_given_is_not_patched(model):
    weights = {name: weight.clone() for name, weight in model.model.state_dict().items()}
    erased = erase(model)
    assert get_hooks(erased) and not get_hooks(model)
    assert erased.model is model.model
    assert all(torch.equal(weight, weights[name]) for name, weight in model.model.state_dict().items())


def test_a_branch_of_a_patched_model_does_not_change_it(model, sample):
    erased = erase(model, "disc")
    before = sample(erased)
    sample(erase(erased, "box"))
    sample(erase(erased, "disc", sae=UP))
    assert torch.equal(sample(erased), before)


def test_the_model_is_freed_after_use(comfyui, model, sample):
    """The pack must not keep a model alive that no workflow holds any more."""
    path = folder_paths.get_full_path("checkpoints", "shapecanvas.safetensors")
    other = comfyui.nodes.comfy.sd.load_checkpoint_guess_config(path, output_vae=False, output_clip=False)[0]
    erased = erase(other)
    sample(erased, steps=1)
    diffusion_model = weakref.ref(other.model.diffusion_model)
    del other, erased
    comfy.model_management.unload_all_models()
    comfy.model_management.cleanup_models_gc()
    gc.collect()
    assert diffusion_model() is None


def test_a_prepared_edit_is_freed_with_the_model_that_has_it(model, sample):
    """Every turn of the strength makes another one; none may stay."""
    erased = erase(model, strength=0.77)
    sample(erased, steps=1)
    function = weakref.ref(get_hooks(erased)[0].function)
    del erased
    gc.collect()
    assert function() is None
