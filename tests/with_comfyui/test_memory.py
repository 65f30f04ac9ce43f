"""The weights that an edit needs belong to ComfyUI's memory manager."""

import gc
import weakref

import comfy.model_management
import pytest
import torch

from sae_eraser.nodes.files import sae_files
from sae_eraser.nodes.files.sae_files import open_sae
from sae_eraser.nodes.files.whole_encoders import whole_encoder
from with_comfyui.random_files import MID, UP
from with_comfyui.sampling import differs, encode, erase
from with_comfyui.test_erase_hook import hook, with_hooks_set


def loaded() -> list:
    return [entry.model.model for entry in comfy.model_management.current_loaded_models]


def test_the_encoder_of_a_topk_sae_is_loaded_and_counted_with_the_model(model, sample):
    erased = erase(erase(erase(model, "disc", UP), "wavy", UP), sae=MID)
    (encoder,) = erased.get_nested_additional_models()
    weights = open_sae(UP).autoencoder.W_enc
    assert encoder.model_size() >= weights.numel() * weights.element_size()
    sample(erased)
    assert encoder.model in loaded()
    assert not model.get_nested_additional_models(), "the model given stays as it is"


def test_that_of_a_hook_is_loaded_with_the_model_too(world, model, sample):
    encoder = whole_encoder(open_sae(UP))
    comfy.model_management.unload_all_models()
    star = encode(world.clip, "a star in neon style")
    sample(model, positive=with_hooks_set(star, hook(sae=UP)))
    assert encoder.model in loaded()


def test_other_saes_need_no_more_than_the_erased_latents(model):
    assert not erase(model, sae=MID).get_nested_additional_models()


def test_what_is_erased_does_not_depend_on_where_the_weights_are(model, sample):
    erased = erase(model, sae=UP)
    expected = sample(erased)
    (encoder,) = erased.get_nested_additional_models()
    comfy.model_management.unload_all_models()
    assert encoder.model not in loaded()
    again = sample(erased)
    assert encoder.model in loaded()
    assert not differs(again, expected) and (again == expected).all()


def test_the_encoder_is_freed_with_the_sae(model):
    sae = open_sae(UP)
    encoder = weakref.ref(whole_encoder(sae).model)
    del sae
    sae_files._load.cache_clear()
    comfy.model_management.cleanup_models_gc()
    gc.collect()
    assert encoder() is None


@pytest.mark.parametrize("sae", [MID, UP])
def test_a_clone_of_the_erased_model_erases_alike(model, sample, sae):
    erased = erase(model, sae=sae)
    assert (sample(erased.clone()) == sample(erased)).all()


@pytest.mark.skipif("not comfy.model_management.cpu_mode()", reason="live_server/test_gpu_memory.py does it on a GPU")
@pytest.mark.parametrize("sae", [MID, UP])
@pytest.mark.parametrize("state", ["LOW_VRAM", "NO_VRAM"])
def test_weights_that_are_loaded_when_their_turn_comes_erase_alike(model, sample, monkeypatch, state, sae):
    """As under --lowvram and --novram: ComfyUI takes the CPU for a device with a megabyte left."""
    management, left = comfy.model_management, 2**20
    plain, erased = sample(model), sample(erase(model, sae=sae))
    management.unload_all_models()
    monkeypatch.setattr(management, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(management, "vram_state", management.VRAMState[state])
    monkeypatch.setattr(management, "get_free_memory", lambda device=None, parts=False: (left, left) if parts else left)
    patched = erase(model, sae=sae)
    again = sample(patched)
    assert patched.model.model_lowvram and patched.loaded_size() == 0 < patched.model_size()
    assert differs(again, plain)
    torch.testing.assert_close(again, erased, rtol=1e-3, atol=1e-3)
    management.unload_all_models()


def test_a_second_gpu_gets_an_encoder_of_its_own(model, sample):
    """As MultiGPU CFG Split does it, with the CPU for the other GPU; before the erase node and behind it."""

    def shared(patched):
        clone = patched.clone()
        other = clone.deepclone_multigpu(torch.device("cpu", 0))
        other.is_multigpu_base_clone = True
        clone.set_additional_models("multigpu", [other])
        clone.match_multigpu_clones()
        return clone

    expected = sample(erase(model, sae=UP))
    for patched in (shared(erase(model, sae=UP)), erase(shared(model), sae=UP)):
        torch.testing.assert_close(sample(patched), expected, rtol=1e-3, atol=1e-3)
