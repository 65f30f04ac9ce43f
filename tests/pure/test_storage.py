"""What fp16, bf16 and int8 make of activation vectors."""

import pytest
import torch

from sae_eraser.training.cache.storage import STORAGES, bytes_per_vector, restored, stored


def gaussian(width: int = 1280) -> torch.Tensor:
    return torch.randn(2000, width, generator=torch.Generator().manual_seed(0))


def round_trip(vectors: torch.Tensor, storage: str) -> torch.Tensor:
    tensors = stored("mid", vectors, storage)
    return restored(tensors["mid"], tensors.get("mid.scale"))


@pytest.mark.parametrize(
    "storage, least, most", [("fp16", 1.9e-4, 2.2e-4), ("bf16", 1.5e-3, 1.8e-3), ("int8", 7.5e-3, 8.5e-3)]
)
def test_the_relative_error_is_what_the_documentation_says(storage, least, most):
    vectors = gaussian()
    error = (round_trip(vectors, storage) - vectors).norm() / vectors.norm()
    assert least < error < most


def test_the_variance_that_int8_loses_is_what_the_documentation_says():
    vectors = gaussian()
    lost = (round_trip(vectors, "int8") - vectors).square().sum() / (vectors - vectors.mean(dim=0)).square().sum()
    assert 6e-5 < lost < 7e-5


def test_one_large_channel_costs_int8_precision_in_the_others():
    vectors = gaussian()
    vectors[:, 7] = 20
    others = torch.arange(1280) != 7
    error = (round_trip(vectors, "int8") - vectors)[:, others].norm() / vectors[:, others].norm()
    assert 0.044 < error < 0.047


def test_int8_is_off_by_half_a_step_at_most():
    vectors = gaussian(32) * torch.logspace(-4, 4, 2000)[:, None]
    steps = vectors.abs().amax(dim=1, keepdim=True) / 127
    assert ((round_trip(vectors, "int8") - vectors).abs() <= 0.501 * steps).all()
    assert (stored("mid", vectors, "int8")["mid"].abs().amax(dim=1) == 127).all()


@pytest.mark.parametrize("storage", STORAGES)
def test_zeros_stay_zeros(storage):
    vectors = torch.zeros(2, 3, 8)
    assert torch.equal(round_trip(vectors, storage), vectors)


@pytest.mark.parametrize("storage", STORAGES)
def test_the_bytes_of_a_vector(storage):
    tensors = stored("mid", gaussian(), storage)
    assert sum(t.nbytes for t in tensors.values()) == 2000 * bytes_per_vector(1280, storage)


def test_half_precision_is_no_obstacle():
    """As it comes from a model that runs in fp16; its numbers are too coarse to find steps with."""
    vectors = gaussian().half()
    error = (round_trip(vectors, "int8") - vectors.float()).norm() / vectors.float().norm()
    assert error < 8.5e-3


def test_what_is_too_large_for_fp16_is_refused_and_fits_the_others():
    vectors = torch.tensor([[1e6, -3.0]])
    with pytest.raises(ValueError, match="at mid are too large for fp16. Choose bf16"):
        stored("mid", vectors, "fp16")
    for storage in ("bf16", "int8"):
        assert torch.allclose(round_trip(vectors, storage)[0, 0], torch.tensor(1e6), rtol=4e-3)
