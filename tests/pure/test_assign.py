"""Scores and the assignment of latents to concepts."""

import pytest
import torch

from sae_eraser.training.assign import assign_latents, concept_scores


def test_scores_are_the_share_with_the_concept_minus_the_share_without_averaged_over_steps():
    means = torch.tensor([[[3.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [0.0, 2.0]], [[0.0, 2.0], [4.0, 0.0]]])
    labels = torch.tensor([[True], [False], [False]])
    # Step 1: 3/4 - 0.5/2 for latent 0. Step 2: 1/2 - 2/3.
    first = (3 / 4 - 1 / 4 + 1 / 2 - 2 / 3) / 2
    torch.testing.assert_close(concept_scores(means, labels), torch.tensor([[first, -first]]))


def test_a_latent_that_never_fires_scores_nothing():
    assert concept_scores(torch.zeros(2, 1, 3), torch.tensor([[True], [False]])).tolist() == [[0.0, 0.0, 0.0]]


def test_the_highest_score_goes_first_and_each_latent_goes_once():
    scores = torch.tensor([[0.5, 0.4, 0.0], [0.9, 0.1, 0.2]])
    assert assign_latents(scores) == [1, 0]


def test_many_concepts_that_want_the_same_latent_all_get_one_each():
    scores = torch.rand(6, 1, generator=torch.Generator().manual_seed(0)) + torch.zeros(6, 6)
    assert sorted(assign_latents(scores)) == [0, 1, 2, 3, 4, 5]


def test_fewer_latents_than_concepts_are_refused():
    with pytest.raises(ValueError, match="3 concepts.* 2.*larger"):
        assign_latents(torch.zeros(3, 2))
