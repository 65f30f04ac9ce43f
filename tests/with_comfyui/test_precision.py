"""Models in half precision and in fp8, as users load them."""

import comfy.sd
import folder_paths
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelComputeDtype

from with_comfyui.random_files import MID, UP
from with_comfyui.sampling import differs, erase


def load(dtype: torch.dtype):
    """The small world's model with weights of this type, as UNETLoader's weight_dtype and --bf16-unet load it."""
    path = folder_paths.get_full_path("checkpoints", "shapecanvas.safetensors")
    options = {"dtype": dtype}
    return comfy.sd.load_checkpoint_guess_config(path, output_vae=False, output_clip=False, model_options=options)[0]


def output_dtype(model, sample) -> torch.dtype:
    """What the hooked block hands on."""
    seen = []
    block = model.model.diffusion_model.middle_block[1]
    handle = block.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    sample(model, steps=1)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("weights", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_weights_of_any_type_are_left_alone(model, sample, weights):
    low = load(weights)
    plain = sample(low)
    for sae in (MID, UP):
        erased = sample(erase(low, sae=sae))
        assert erased.isfinite().all()
        assert differs(erased, plain)
        assert torch.equal(sample(erase(low, "silent", sae)), plain)
    assert low.model.diffusion_model.middle_block[1].proj_in.weight.dtype == weights


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_model_that_computes_in_half_precision_goes_on_doing_so(model, sample, dtype):
    change = ModelComputeDtype().patch
    after, before = change(erase(model), dtype)[0], erase(change(model, dtype)[0])
    latents = sample(after)
    assert output_dtype(after, sample) == {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    assert latents.isfinite().all()
    assert torch.equal(sample(before), latents)
    assert differs(latents, sample(change(model, dtype)[0]))
