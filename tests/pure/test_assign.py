"""Mean activations, scores, how alike concepts are, and the assignment of latents to concepts."""

from dataclasses import replace

import pytest
import torch

from pure.planted import Planted, labelled_images, plant
from pure.random_sae import random_sae
from sae_eraser.training.assign import (
    LatentMeans,
    assign_latents,
    carriers_of,
    companions,
    latent_means,
    latent_scores,
    similarity,
)
from sae_eraser.training.data import LabelledImages


@pytest.fixture(scope="module")
def planted() -> Planted:
    return plant(range(2))


@pytest.fixture(scope="module")
def images(planted, tmp_path_factory) -> LabelledImages:
    return labelled_images(tmp_path_factory.mktemp("planted"), planted)


@pytest.fixture(scope="module")
def latents(planted) -> torch.Tensor:
    """[images, levels, latents] of the random SAE, noise rising: averaged over positions."""
    return random_sae("batchtopk", d=16).encode(planted.maps.half().float()).mean(dim=2).flip(1)


def test_means_are_over_positions_and_the_images_with_and_without_each_concept(planted, images, latents):
    means = latent_means(random_sae("batchtopk", d=16), images)
    for column, shows in enumerate(planted.labels().T):
        torch.testing.assert_close(means.with_concept[column], latents[shows].mean(dim=0))
        torch.testing.assert_close(means.without[column], latents[~shows].mean(dim=0))
    torch.testing.assert_close(means.overall, latents.mean(dim=0))


def test_images_count_by_their_weights(planted, images, latents):
    weights = torch.linspace(0.2, 1.8, len(images))
    means = latent_means(random_sae("batchtopk", d=16), replace(images, weights=weights))

    def mean(which: torch.Tensor) -> torch.Tensor:
        return (weights[which, None, None] * latents[which]).sum(dim=0) / weights[which].sum()

    for column, shows in enumerate(planted.labels().T):
        torch.testing.assert_close(means.with_concept[column], mean(shows))
        torch.testing.assert_close(means.without[column], mean(~shows))
    torch.testing.assert_close(means.overall, mean(torch.ones(len(images), dtype=torch.bool)))


def test_maps_of_one_noise_level_are_averaged(planted, latents, tmp_path):
    """As of a sampler that calls the model twice at some of them."""
    sigmas = planted.sigmas.clone()
    sigmas[:, 2] = sigmas[:, 1]
    means = latent_means(random_sae("batchtopk", d=16), labelled_images(tmp_path, replace(planted, sigmas=sigmas)))
    expected = torch.stack([latents[:, :2].mean(dim=1), latents[:, 2]], dim=1)
    torch.testing.assert_close(means.overall, expected.mean(dim=0))
    for column, shows in enumerate(planted.labels().T):
        torch.testing.assert_close(means.with_concept[column], expected[shows].mean(dim=0))


def test_scores_are_the_share_with_the_concept_minus_the_share_without_averaged_over_noise_levels():
    means = LatentMeans(
        with_concept=torch.tensor([[[3.0, 1.0], [1.0, 1.0]]]),
        without=torch.tensor([[[1.0, 1.0], [4.0, 2.0]]]),
        overall=torch.ones(2, 2),
    )
    first = ((3 / 4 - 1 / 2) + (1 / 2 - 4 / 6)) / 2
    torch.testing.assert_close(latent_scores(means), torch.tensor([[first, -first]]))


def test_latents_that_never_fire_score_nothing():
    silent = torch.zeros(1, 2, 3)
    assert latent_scores(LatentMeans(silent, silent, silent[0])).tolist() == [[0.0, 0.0, 0.0]]


def test_likeness_is_the_cosine_of_mean_activations_around_the_mean_of_all(planted, images):
    sae = random_sae("topk", d=16)
    normalised = sae.normalise(planted.maps.half().float()).mean(dim=(1, 2))
    means = torch.stack([normalised[shows].mean(dim=0) for shows in planted.labels().T]) - normalised.mean(dim=0)
    expected = torch.nn.functional.cosine_similarity(means[:, None], means[None], dim=-1).clamp(min=0)
    found = similarity(sae, images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.diagonal(), torch.ones(5))
    assert found[3, 4] == 0, "two styles that share no picture are opposites around the mean"


def test_greedy_gives_the_highest_score_first_and_each_latent_once():
    scores = torch.tensor([[0.5, 0.4, 0.0], [0.9, 0.1, 0.2]])
    assert assign_latents(scores) == [1, 0]


def total(scores: torch.Tensor, latents: list[int]) -> float:
    return scores[torch.arange(len(latents)), latents].sum().item()


def test_optimal_gives_the_largest_sum_where_greedy_does_not():
    """Greedy takes 0.9 and is left with 0.1; 0.8 + 0.7 is more."""
    scores = torch.tensor([[0.9, 0.8], [0.7, 0.1]])
    assert assign_latents(scores, "greedy") == [0, 1]
    assert assign_latents(scores, "optimal") == [1, 0]


def test_optimal_is_never_worse_than_greedy():
    gains = []
    for seed in range(50):
        scores = torch.rand(6, 9, generator=torch.Generator().manual_seed(seed))
        greedy, optimal = (assign_latents(scores, method) for method in ("greedy", "optimal"))
        assert len(set(optimal)) == 6
        gains.append(total(scores, optimal) - total(scores, greedy))
    assert min(gains) > -1e-6
    assert max(gains) > 0.01


@pytest.mark.parametrize("method", ["greedy", "optimal"])
def test_concepts_that_want_the_same_latent_all_get_one_each(method):
    scores = torch.rand(6, 1, generator=torch.Generator().manual_seed(0)) + torch.zeros(6, 6)
    assert sorted(assign_latents(scores, method)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("method", ["greedy", "optimal"])
def test_fewer_latents_than_concepts_are_refused(method):
    with pytest.raises(ValueError, match="3 concepts.* 2.*more --latents"):
        assign_latents(torch.zeros(3, 2), method)


def test_companions_are_the_best_of_those_that_are_no_concepts_own_and_speak_for_the_concept():
    scores = torch.tensor([[0.9, 0.5, 0.4, 0.3, 0.1, 0.2], [0.8, 0.7, -0.1, 0.2, -0.3, 0.6]])
    assert companions(scores, [0, 1], 4, taken=[5]) == [(0, 2, 3, 4), (1, 3)]
    assert companions(scores, [0, 1], 2, taken=[5]) == [(0, 2), (1, 3)]
    assert companions(scores, [0, 1], 1, taken=[]) == [(0,), (1,)]


def test_carriers_are_the_best_by_score_and_no_latent_carries_two_labels():
    scores = torch.tensor([[0.9, 0.5, 0.4, 0.3, 0.1, 0.2], [0.8, 0.7, -0.1, 0.2, -0.3, 0.6]])
    assert carriers_of(scores, [0, 1], 3) == [[0, 2, 3], [1, 5, 4]]
    assert carriers_of(scores, [0, 1], 1) == [[0], [1]]


def test_more_carriers_than_latents_are_refused():
    with pytest.raises(ValueError, match="2 labels with 4 latents each need 8 latents, but there are 6"):
        carriers_of(torch.zeros(2, 6), [0, 1], 4)
