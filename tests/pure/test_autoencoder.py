"""The autoencoder: what each activation function keeps, and the units of its input and output."""

import pytest
import torch

from pure.random_sae import random_sae
from sae_eraser.sae_ops.autoencoder import ACTIVATIONS, SAEConfig, SparseAutoencoder


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(40, 12, generator=torch.Generator().manual_seed(1))


def test_topk_keeps_the_k_largest_of_every_vector(x):
    sae = random_sae("topk", k=6)
    pre_acts, z = sae.pre_acts(x), sae.encode(x)
    assert ((z > 0).sum(dim=1) == 6).all()
    smallest_kept = z.masked_fill(z == 0, torch.inf).amin(dim=1)
    largest_dropped = pre_acts.masked_fill(z > 0, -torch.inf).amax(dim=1)
    assert (smallest_kept > largest_dropped).all()
    assert torch.equal(z[z > 0], pre_acts[z > 0])


def test_topk_keeps_nothing_negative():
    sae = random_sae("topk", k=6)
    sae.b_enc.fill_(-100.0)
    assert not sae.encode(torch.ones(3, 12)).any()


def test_batchtopk_at_inference_keeps_what_exceeds_its_threshold_whatever_else_is_in_the_batch(x):
    sae = random_sae("batchtopk")
    pre_acts, z = sae.pre_acts(x), sae.encode(x)
    assert torch.equal(z, torch.where(pre_acts > sae.threshold, pre_acts, 0))
    assert torch.allclose(sae.encode(x[3:4]), z[3:4])
    assert len((z > 0).sum(dim=1).unique()) > 1


def test_jumprelu_has_a_threshold_for_every_latent(x):
    sae = random_sae("jumprelu")
    assert sae.threshold.shape == (24,)
    pre_acts = sae.pre_acts(x)
    for latent, threshold in enumerate(sae.threshold):
        expected = torch.where(pre_acts[:, latent] > threshold, pre_acts[:, latent], 0)
        assert torch.equal(sae.encode(x)[:, latent], expected)


def test_relu_keeps_whatever_is_positive(x):
    sae = random_sae("relu")
    assert torch.equal(sae.encode(x), sae.pre_acts(x).clamp(min=0))


def test_pre_acts_are_taken_before_any_relu(x):
    assert (random_sae().pre_acts(x) < 0).any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_decoding_answers_in_the_units_of_the_input(x, activation):
    """Shifting and scaling x, and the two inputs of normalise with it, shifts and scales the reconstruction."""
    sae = random_sae(activation)
    reconstruction = sae(x)
    sae.input_shift.copy_(sae.input_shift * 5 + 3)
    sae.input_scale.div_(5)
    assert torch.allclose(sae(x * 5 + 3), reconstruction * 5 + 3, atol=1e-4)


def test_an_orthonormal_autoencoder_reconstructs_its_input():
    sae = _signed_identity()
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(1)) * 3 + 1
    assert torch.allclose(sae(x), x, atol=1e-5)


def test_maps_of_any_shape_are_encoded_along_their_last_axis(x):
    sae = random_sae("topk")
    z = sae.encode(x.view(2, 4, 5, 12))
    assert z.shape == (2, 4, 5, 24)
    assert torch.allclose(z.view(40, 24), sae.encode(x))


@pytest.mark.parametrize("k", [0, -1, 25])
def test_a_k_outside_the_latents_is_refused(k):
    with pytest.raises(ValueError, match=f"k is {k}.* 24"):
        SAEConfig(12, 24, "topk", k)


@pytest.mark.parametrize("size", [{"n_latents": -5}, {"n_latents": 0}, {"d_in": 0}])
def test_a_size_below_one_is_said_before_anything_else(size):
    ((name, value),) = size.items()
    with pytest.raises(ValueError, match=f"{name} is {value}, but must be at least 1"):
        SAEConfig(**{"d_in": 12, "n_latents": 24} | size)


def test_an_unknown_activation_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="'gelu'.*topk, batchtopk, jumprelu, relu"):
        SAEConfig(12, 24, "gelu", 4)


def _signed_identity() -> SparseAutoencoder:
    """Latents +e_i and -e_i: whatever the sign of a channel, one of its two latents carries it."""
    sae = SparseAutoencoder(SAEConfig(4, 8, "relu", 4)).requires_grad_(False)
    sae.W_enc.copy_(torch.cat([torch.eye(4), -torch.eye(4)]))
    sae.W_dec.copy_(sae.W_enc)
    sae.b_dec.copy_(torch.tensor([0.5, -0.5, 1.0, 0.0]))
    sae.input_shift.fill_(2.0)
    sae.input_scale.fill_(0.3)
    return sae
