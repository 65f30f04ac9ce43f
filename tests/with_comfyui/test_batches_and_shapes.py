"""Batches of any size, and maps of any shape."""

import pytest
import torch

from with_comfyui.random_files import MID, MID_TOO, UP
from with_comfyui.sampling import differs, erase


@pytest.mark.parametrize("mode", ["scale", "replace"])
@pytest.mark.parametrize("sae", [MID, MID_TOO, UP])
def test_each_image_of_a_batch_is_what_it_is_alone(model, sample, sae, mode):
    erased = erase(model, sae=sae, mode=mode)
    batch = sample(erased, batch_index=[0, 1, 2])
    for index in range(3):
        torch.testing.assert_close(batch[index], sample(erased, batch_index=[index])[0], rtol=1e-3, atol=1e-3)
    assert differs(batch, sample(model, batch_index=[0, 1, 2]))


@pytest.mark.parametrize("size", [(7, 9), (8, 12), (12, 8), (5, 5), (2, 16), (1, 3)], ids=str)
@pytest.mark.parametrize("sae", [MID, UP])
def test_maps_of_odd_and_oblong_shapes_are_edited(model, sample, sae, size):
    latents = sample(erase(model, "box", sae, mode="replace"), size=size, images=2)
    assert latents.shape == (2, 16, *size)
    assert latents.isfinite().all()
    assert differs(latents, sample(model, size=size, images=2))


def test_one_patched_model_takes_another_shape_with_every_call(model, sample):
    erased = erase(erase(model), sae=UP)
    for size, images in [((8, 8), 1), ((7, 9), 2), ((8, 12), 1), ((12, 8), 3), ((8, 8), 1)]:
        expected = sample(erase(erase(model), sae=UP), size=size, images=images)
        assert torch.equal(sample(erased, size=size, images=images), expected)
