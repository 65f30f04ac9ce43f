"""The sparse products of training, against the plain dense autoencoder with autograd."""

import pytest
import torch
import torch.nn.functional as F

from pure.random_sae import random_sae
from sae_eraser.sae_ops.autoencoder import SparseAutoencoder
from sae_eraser.sae_ops.bf16 import VECTORS_PER_BLOCK
from sae_eraser.training.sparse import Kept, kept_latents, reconstruct

SIZES = [(64, 3), (61, 3), (64, 60), (61, 61), (256, 1)]
"""(latents, k): n divisible by 8 and not, k close to n, and one kept of many."""


def vectors(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))


def mask(sae: SparseAutoencoder, pre_acts: torch.Tensor) -> torch.Tensor:
    """Which latents are kept, bool [vectors, n], by the definition."""
    kept = torch.zeros_like(pre_acts, dtype=torch.bool)
    if sae.config.activation == "topk":
        return kept.scatter_(1, pre_acts.topk(sae.config.k, dim=1).indices, True)
    if sae.config.activation != "batchtopk":
        return sae.activate(pre_acts) > 0
    kept.view(-1)[pre_acts.flatten().topk(sae.config.k * len(pre_acts)).indices] = True
    return kept


def dense(sae: SparseAutoencoder, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents [vectors, n] and reconstruction with every product in full."""
    pre_acts = F.linear(x - sae.b_dec, sae.W_enc, sae.b_enc)
    z = pre_acts.relu() * mask(sae, pre_acts)
    return z, z @ sae.W_dec + sae.b_dec


def as_table(kept: Kept, vectors: int, n: int) -> torch.Tensor:
    """[vectors, n], zero where nothing is kept."""
    ends = torch.cat([kept.starts[1:], kept.starts.new_tensor([len(kept.latents)])])
    owners = torch.repeat_interleave(ends - kept.starts)
    return torch.zeros(vectors, n).index_put((owners, kept.latents), kept.values.detach())


def gradients(sae: SparseAutoencoder, reconstruction: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    sae.zero_grad()
    (reconstruction - target).square().sum().backward()
    return {name: parameter.grad for name, parameter in sae.named_parameters()}


def assert_equal_to_dense(sae: SparseAutoencoder, x: torch.Tensor) -> torch.Tensor:
    """Values, reconstruction and the gradients of all four weights; returns the latents."""
    sae.requires_grad_(True)
    target = vectors(len(x), seed=1)
    z, expected = dense(sae, x)
    expected_gradients = gradients(sae, expected, target)
    reconstruction, kept = reconstruct(sae, x, torch.float32)
    torch.testing.assert_close(as_table(kept, *z.shape), z)
    torch.testing.assert_close(reconstruction, expected)
    for name, gradient in gradients(sae, reconstruction, target).items():
        tolerance = 1e-5 * expected_gradients[name].abs().max().item()
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=tolerance, msg=name)
    return z


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
@pytest.mark.parametrize("n, k", SIZES)
def test_values_reconstruction_and_gradients_are_those_of_the_dense_products(activation, n, k):
    z = assert_equal_to_dense(random_sae(activation, n=n, k=k), vectors(40))
    assert (z > 0).any()


@pytest.mark.parametrize("activation", ["relu", "jumprelu"])
def test_an_sae_of_another_kind_keeps_what_it_encodes(activation):
    """As one does that is extended, and was imported."""
    sae = random_sae(activation, n=61)
    if activation == "relu":
        sae.threshold.zero_()
    else:
        sae.threshold[::3] *= -1
    x = vectors(40)
    x[[0, 7, 39]] = -100 * sae.W_enc.sum(dim=0)
    z = assert_equal_to_dense(sae, x)
    assert 0.1 < (z > 0).float().mean() < 0.9


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_a_batch_of_several_blocks_is_one_batch(activation):
    x = vectors(VECTORS_PER_BLOCK + 9)
    x[VECTORS_PER_BLOCK:] *= 5  # so that the second block has more than its share
    assert_equal_to_dense(random_sae(activation, n=64, k=2), x)


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_a_vector_without_a_positive_latent_is_reconstructed_as_the_bias(activation):
    sae = random_sae(activation, n=64, k=3)
    sae.b_enc.copy_(-sae.b_enc.abs() - 0.01)
    x = vectors(40)
    x[[0, 7, 39]] = sae.b_dec
    z = assert_equal_to_dense(sae, x)
    assert not z[[0, 7, 39]].any()
    reconstruction, _ = reconstruct(sae, x, torch.float32)
    torch.testing.assert_close(reconstruction[7], sae.b_dec)


@pytest.mark.parametrize("n", [64, 61])
def test_one_vector_may_take_far_more_latents_than_the_others(n):
    """More than 4 k and more than 16 k, so that the search is widened twice."""
    x = vectors(40)
    x[5] *= 100
    z = assert_equal_to_dense(random_sae("batchtopk", n=n, k=1), x)
    assert (z[5] > 0).sum() > 16


def test_batchtopk_keeps_k_latents_a_vector_on_average():
    x = vectors(50)
    kept = kept_latents(random_sae("batchtopk", k=3), x, torch.float32)
    counts = torch.diff(kept.starts, append=torch.tensor([len(kept.latents)]))
    assert counts.sum() == 150
    assert len(counts.unique()) > 1


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_bf16_keeps_almost_the_same_latents_as_fp32(activation):
    """98 of 100 are the same, and their values agree to 0.5 % of the largest."""
    sae, x = random_sae(activation, n=256, k=8), vectors(400)
    kept, coarse = (kept_latents(sae, x, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert coarse.values.dtype == torch.float32
    z, z_coarse = (as_table(latents, 400, 256) for latents in (kept, coarse))
    both = (z > 0) & (z_coarse > 0)
    assert both.sum() > 0.98 * (z > 0).sum()
    assert (z_coarse - z)[both].abs().max() < 0.005 * z.max()
    assert not torch.equal(z_coarse, z)
