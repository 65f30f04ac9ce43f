"""A model behind torch.compile, with ComfyUI's own wrapper for it."""

import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper

from with_comfyui.sampling import differs, erase


def compiled(model):
    """As the node TorchCompileModel does it; the backend "eager" traces the model but needs no C++ compiler."""
    clone = model.clone()
    set_torch_compile_wrapper(clone, backend="eager")
    return clone


def test_a_compiled_model_erases_and_follows_a_change_of_strength(model, sample):
    plain = compiled(model)
    baseline = sample(plain, steps=1)
    for strength in (1.0, 0.3):
        latents = sample(erase(plain, strength=strength), steps=1)
        torch.testing.assert_close(latents, sample(erase(model, strength=strength), steps=1), rtol=1e-3, atol=1e-3)
        assert differs(latents, baseline)
    torch.testing.assert_close(sample(plain, steps=1), baseline)
