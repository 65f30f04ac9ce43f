"""The losses, against values worked out by hand."""

import math

import pytest
import torch

from sae_eraser.sae_ops.autoencoder import SAEConfig, SparseAutoencoder
from sae_eraser.training.losses import auxiliary_loss, concept_loss, decorrelation_loss, fvu


def test_fvu_is_squared_error_over_variance():
    x = torch.tensor([[0.0, 2.0], [2.0, 4.0]])  # mean (1, 3), sum of squares around it 4
    assert fvu(x, torch.tensor([[0.0, 2.0], [1.0, 4.0]])).item() == pytest.approx(1 / 4)
    assert fvu(x, x).item() == 0
    assert fvu(x, x.mean(dim=0).expand(2, 2)).item() == pytest.approx(1)


def test_the_concept_loss_sees_negative_logits_as_they_are():
    """A ReLU before it would make -3 and 0 the same."""
    logits, labels = torch.tensor([[-3.0], [2.0]]), torch.tensor([[0.0], [1.0]])
    expected = (math.log1p(math.exp(-3)) + math.log1p(math.exp(-2))) / 2
    assert concept_loss(logits, labels, torch.ones(1)).item() == pytest.approx(expected)
    assert concept_loss(logits, 1 - labels, torch.ones(1)).item() == pytest.approx(expected + 2.5)


def test_the_concept_loss_weighs_pictures_with_the_concept():
    logits, labels = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    loss = concept_loss(logits, labels, torch.tensor([3.0, 3.0])).item()
    assert loss == pytest.approx((3 + 1) / 2 * math.log(2))


def test_decorrelation_counts_pairs_of_different_groups_alone():
    rising, falling = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 2.0, 1.0])
    bent = torch.tensor([0.0, 1.0, 0.0])  # no correlation with the others
    logits = torch.stack([rising, 10 * falling, bent], dim=1)
    assert decorrelation_loss(logits, torch.tensor([0, 1, 1])).item() == pytest.approx((1 + 0) / 2)
    assert decorrelation_loss(logits, torch.tensor([0, 0, 1])).item() == pytest.approx(0, abs=1e-6)
    assert decorrelation_loss(logits, torch.tensor([0, 0, 0])).item() == 0


def test_decorrelation_survives_a_logit_that_is_constant():
    logits = torch.tensor([[1.0, 1.0], [1.0, 2.0]], requires_grad=True)
    decorrelation_loss(logits, torch.tensor([0, 1])).backward()
    assert logits.grad.isfinite().all()


@pytest.fixture
def sae() -> SparseAutoencoder:
    """Four latents that decode to the four axes."""
    sae = SparseAutoencoder(SAEConfig(4, 4, "relu", 1))
    sae.W_dec.data.copy_(torch.eye(4))
    sae.b_dec.data.fill_(100.0)
    return sae


def test_the_auxiliary_loss_explains_what_is_left_over(sae):
    """Residual (1, 0, 0, 0); the d/2 = 2 largest of the three dead latents say (0.25, 0, 0.5, 0), without b_dec."""
    x, reconstruction = torch.tensor([[2.0, 2, 2, 2]]), torch.tensor([[1.0, 2, 2, 2]])
    pre_acts = torch.tensor([[0.25, 9.0, 0.5, 0.125]])
    dead = torch.tensor([True, False, True, True])
    loss = auxiliary_loss(sae, x, reconstruction, pre_acts, dead)
    assert loss.item() == pytest.approx((0.75**2 + 0.5**2) / 1)


def test_the_auxiliary_loss_is_smaller_with_fewer_dead_latents_than_it_could_use(sae):
    x, reconstruction = torch.tensor([[2.0, 2, 2, 2]]), torch.tensor([[1.0, 2, 2, 2]])
    dead = torch.tensor([True, False, False, False])
    loss = auxiliary_loss(sae, x, reconstruction, torch.tensor([[0.25, 9, 9, 9]]), dead)
    assert loss.item() == pytest.approx(0.5 * 0.75**2)
    assert auxiliary_loss(sae, x, reconstruction, torch.ones(1, 4), ~dead & dead).item() == 0


def test_the_auxiliary_loss_teaches_dead_latents_only(sae):
    """Its residual is detached: the living ones must not learn to leave something over."""
    x = torch.tensor([[2.0, 2, 2, 2]])
    reconstruction = torch.tensor([[1.0, 2, 2, 2]], requires_grad=True)
    pre_acts = torch.tensor([[0.25, 9.0, 0.5, -1.0]], requires_grad=True)
    auxiliary_loss(sae, x, reconstruction, pre_acts, torch.tensor([True, False, True, True])).backward()
    assert reconstruction.grad is None
    assert pre_acts.grad[0, 0] < 0, "a dead latent that points at the residual should rise"
    assert pre_acts.grad[0, 2] > 0, "one that points elsewhere should fall"
    assert pre_acts.grad[0, 1] == 0
