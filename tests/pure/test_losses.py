"""The losses, against values worked out by hand."""

import math

import pytest
import torch

from pure.random_sae import random_sae
from sae_eraser.sae_ops.autoencoder import SAEConfig, SparseAutoencoder
from sae_eraser.training.losses import (
    auxiliary_loss,
    concept_loss,
    decorrelation_loss,
    fvu,
    guidance_loss,
    presence_loss,
    silence_loss,
)


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


RISING, FALLING = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 2.0, 1.0])


def test_concepts_of_different_groups_shall_not_be_correlated_either_way():
    bent = torch.tensor([0.0, 1.0, 0.0])  # no correlation with the others
    logits = torch.stack([RISING, 10 * FALLING, bent], dim=1)
    unlike = torch.eye(3)
    assert decorrelation_loss(logits, torch.tensor([0, 1, 1]), unlike).item() == pytest.approx((1 + 0) / 2)
    assert decorrelation_loss(logits, torch.tensor([0, 0, 1]), unlike).item() == pytest.approx(0, abs=1e-6)
    assert decorrelation_loss(logits, torch.tensor([0, 0, 0]), unlike).item() == 0


def test_look_alikes_of_one_group_shall_not_fire_together_but_may_exclude_each_other():
    """Correlations: 1 of the first two, -1 of both with the third; similarities .8 and .2."""
    logits = torch.stack([RISING, 2 * RISING, FALLING], dim=1)
    similarity = torch.tensor([[1.0, 0.8, 0.2], [0.8, 1.0, 0.2], [0.2, 0.2, 1.0]])
    group = torch.tensor([0, 0, 0])
    assert decorrelation_loss(logits, group, similarity).item() == pytest.approx(0.8 / (0.8 + 0.2 + 0.2))
    assert decorrelation_loss(logits[:, [0, 2]], group[:2], torch.ones(2, 2)).item() == 0


def test_both_parts_of_the_decorrelation_add_up():
    """Inside: one pair with correlation 1. Between: four ordered pairs out of four with correlation 1."""
    logits = torch.stack([RISING, 2 * RISING, RISING], dim=1)
    assert decorrelation_loss(logits, torch.tensor([0, 0, 1]), torch.ones(3, 3)).item() == pytest.approx(1 + 1)


def test_decorrelation_survives_a_logit_that_is_constant():
    for groups in ([0, 1], [0, 0]):
        logits = torch.tensor([[1.0, 1.0], [1.0, 2.0]], requires_grad=True)
        decorrelation_loss(logits, torch.tensor(groups), torch.ones(2, 2)).backward()
        assert logits.grad.isfinite().all()


def test_silence_is_the_mean_firing_where_a_concept_is_not_shown():
    firing = torch.tensor([[0.5, 9.0], [9.0, 0.1], [0.3, 9.0]], requires_grad=True)
    labels = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    loss = silence_loss(firing, labels)
    assert loss.item() == pytest.approx((0.5 + 0.1 + 0.3) / 3)
    loss.backward()
    assert not firing.grad[labels > 0].any()
    assert silence_loss(firing, torch.ones(3, 2)).item() == 0


X = torch.tensor([[2.0, 2.0, 2.0, 2.0]])
RESIDUAL = torch.tensor([[1.0, 0.0, 0.0, 0.0]])


def four_latents(pre_acts: list[float]) -> SparseAutoencoder:
    """They decode to the four axes and have these pre_acts whatever the vector."""
    sae = SparseAutoencoder(SAEConfig(4, 4, "topk", 1))
    sae.W_dec.data.copy_(torch.eye(4))
    sae.b_enc.data.copy_(torch.tensor(pre_acts))
    sae.b_dec.data.fill_(100.0)
    return sae


def test_the_auxiliary_loss_explains_what_is_left_over():
    """Of the three dead latents the d/2 = 2 largest say (0.25, 0, 0.5, 0), without b_dec."""
    dead = torch.tensor([True, False, True, True])
    loss = auxiliary_loss(four_latents([0.25, 9.0, 0.5, 0.125]), X, RESIDUAL, dead)
    assert loss.item() == pytest.approx(0.75**2 + 0.5**2)


def test_dead_latents_see_what_the_others_see():
    """The first one's pre_act is 0.01 * (2 - 100) + 1.23 = 0.25."""
    sae, dead = four_latents([1.23, 9.0, 9.0, 9.0]), torch.tensor([True, False, False, False])
    sae.W_enc.data[0, 0] = 0.01
    assert auxiliary_loss(sae, X, RESIDUAL, dead).item() == pytest.approx(0.5 * 0.75**2)


def test_the_auxiliary_loss_is_summed_over_vectors():
    loss = auxiliary_loss(
        four_latents([0.25, 9.0, 0.5, 0.125]),
        X.expand(3, 4),
        RESIDUAL.expand(3, 4),
        torch.tensor([True, False, True, True]),
    )
    assert loss.item() == pytest.approx(3 * (0.75**2 + 0.5**2))


def test_the_auxiliary_loss_is_smaller_with_fewer_dead_latents_than_it_could_use():
    sae, dead = four_latents([0.25, 9.0, 9.0, 9.0]), torch.tensor([True, False, False, False])
    assert auxiliary_loss(sae, X, RESIDUAL, dead).item() == pytest.approx(0.5 * 0.75**2)
    assert auxiliary_loss(sae, X, RESIDUAL, dead & ~dead).item() == 0


def test_the_auxiliary_loss_teaches_dead_latents_only():
    sae = four_latents([0.25, 9.0, 0.5, -1.0])
    auxiliary_loss(sae, X, RESIDUAL, torch.tensor([True, False, True, True])).backward()
    assert sae.b_enc.grad[0] < 0, "a dead latent that points at the residual should rise"
    assert sae.b_enc.grad[2] > 0, "one that points elsewhere should fall"
    assert sae.b_enc.grad[1] == sae.b_enc.grad[3] == 0
    assert not sae.W_dec.grad[1].any() and not sae.W_enc.grad[1].any()


def test_the_guidance_loss_is_what_latents_of_named_concepts_leave_of_the_difference():
    sae = random_sae("batchtopk", d=6, n=12)
    sae.threshold.fill_(0.3)
    x, difference = (torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    carriers, labels = torch.tensor([[0, 5], [7, 2]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    expected = 0.0
    for image, row in enumerate(labels):
        for position in range(3):
            left = difference[image, position].clone()
            for latent in (latent for own, named in zip(carriers, row, strict=True) if named for latent in own):
                z = sae.W_enc[latent] @ (x[image, position] - sae.b_dec) + sae.b_enc[latent]
                left -= (z if z > 0.3 else 0) * sae.W_dec[latent]
            expected += left.square().sum()
    pairs = torch.tensor([[0, 0], [0, 5], [1, 7], [1, 2]])
    torch.testing.assert_close(guidance_loss(sae, x, difference, pairs, labels), expected)


def test_the_presence_loss_is_1_if_nothing_is_found_and_0_if_all_is_as_labelled():
    labels, weight = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]), torch.tensor([2.0, 3.0])
    assert presence_loss(torch.zeros(3, 2), labels, weight) == 1
    assert presence_loss(labels, labels, weight) == 0
    wrong = labels + torch.tensor([[0.5, 0.0], [0.0, -0.3], [0.0, 0.1]])
    assert presence_loss(wrong, labels, weight).item() == pytest.approx((2 * 0.5**2 + 0.3**2 + 3 * 0.1**2) / 5)
