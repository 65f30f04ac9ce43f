"""Where concepts cannot be erased, sampling stops with a message instead of drawing them."""

import math

import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import WrappersMP

from sae_eraser.nodes.erase.erase_concept import EraseConcept
from sae_eraser.nodes.erase.erase_concept_from_text import EraseConceptFromText
from sae_eraser.nodes.erase.erase_concept_hook import EraseConceptHook
from with_comfyui.random_files import MID
from with_comfyui.sampling import erase


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
