"""A model behind torch.compile, with ComfyUI's own wrapper for it."""

import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

from with_comfyui.sampling import differs, erase


def compiled(model):
    """As the node TorchCompileModel does it; the backend "eager" traces the model but needs no C++ compiler."""
    clone = model.clone()
    set_torch_compile_wrapper(clone, backend="eager", options={"guard_filter_fn": skip_torch_compile_dict})
    return clone


def test_a_compiled_model_that_has_run_erases_and_follows_a_change_of_strength(model, sample):
    plain = compiled(model)
    baseline = sample(plain, steps=1)
    for strength in (1.0, 0.3):
        latents = sample(erase(plain, strength=strength), steps=1)
        torch.testing.assert_close(latents, sample(erase(model, strength=strength), steps=1), rtol=1e-3, atol=1e-3)
        assert differs(latents, baseline)
    torch.testing.assert_close(sample(plain, steps=1), baseline)


def test_compiling_after_the_eraser_is_compiling_before_it(model, sample):
    after = sample(compiled(erase(model)), steps=1)
    torch.testing.assert_close(after, sample(erase(model), steps=1), rtol=1e-3, atol=1e-3)
    assert differs(after, sample(model, steps=1))


def test_erased_and_plain_runs_alternate_on_one_compiled_model(model, sample):
    plain = compiled(model)
    erased = erase(plain)
    expected = [sample(erase(model), steps=1), sample(model, steps=1)]
    for _ in range(2):
        for patched, latents in zip((erased, plain), expected, strict=True):
            torch.testing.assert_close(sample(patched, steps=1), latents, rtol=1e-3, atol=1e-3)
