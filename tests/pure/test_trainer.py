"""The trainer's parts: data, initial autoencoder, latents while training, threshold and multipliers."""

import itertools

import pytest
import torch

from pure.planted import CONCEPTS, HOOKPOINT, plant, write_cache
from pure.random_sae import random_sae
from sae_eraser.sae_ops.autoencoder import SAEConfig
from sae_eraser.training.cache import Cache
from sae_eraser.training.calibrate import concept_statistics, estimate_threshold
from sae_eraser.training.data import ConceptMaps, load_maps
from sae_eraser.training.trainer import (
    TrainingConfig,
    new_autoencoder,
    train_supervised,
    train_unsupervised,
    training_latents,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> tuple[ConceptMaps, ConceptMaps]:
    """Training and validation data of a planted cache."""
    return load_maps(Cache(write_cache(tmp_path_factory.mktemp("planted"), plant(range(20)))), HOOKPOINT, CONCEPTS)


def test_about_one_image_in_ten_is_held_out_and_none_is_in_both_parts(data):
    training, validation = data
    assert len(training.maps) + len(validation.maps) == 120
    assert 3 <= len(validation.maps) <= 25
    assert not any((image == training.maps).flatten(1).all(dim=1).any() for image in validation.maps)


def test_maps_keep_their_labels_and_noise_levels(data):
    planted = plant(range(20))
    for part in data:
        for image, sigmas, labels in zip(part.maps, part.sigmas, part.labels, strict=True):
            index = (planted.maps.half() == image).flatten(1).all(dim=1).nonzero().item()
            assert torch.equal(labels, planted.labels()[index])
            assert torch.equal(sigmas, planted.sigmas[index])


def test_a_new_autoencoder_centres_and_scales_its_input(data):
    sae = new_autoencoder(SAEConfig(16, 32, "topk", 2), data[0], seed=0)
    normalised = sae.normalise(data[0].maps.flatten(0, 2).float())
    assert normalised.mean(dim=0).abs().max() < 0.05
    assert normalised.square().mean().item() == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(32))


def test_batchtopk_keeps_k_latents_a_vector_on_average_while_training():
    sae = random_sae("batchtopk", k=3)
    pre_acts = sae.pre_acts(torch.randn(50, 12, generator=torch.Generator().manual_seed(0)))
    z = training_latents(sae, pre_acts)
    assert (z > 0).sum() == 150
    assert z[z > 0].min() >= pre_acts[z == 0].max()
    assert len((z > 0).sum(dim=1).unique()) > 1


def test_the_threshold_keeps_as_many_latents_as_training_did(data):
    sae = new_autoencoder(SAEConfig(16, 32, "batchtopk", 3), data[0], seed=0).requires_grad_(False)
    estimate_threshold(sae, data[0], seed=0)
    kept = (sae.encode(data[1].maps.flatten(0, 2).float()) > 0).float().sum(dim=1).mean()
    assert kept.item() == pytest.approx(3, rel=0.1)


def test_unsupervised_training_explains_more_and_keeps_decoder_rows_at_unit_norm(data):
    sae = new_autoencoder(SAEConfig(16, 32, "batchtopk", 2), data[0], seed=0)
    reports: list[dict] = []
    train_unsupervised(sae, data[0], TrainingConfig(unsupervised_steps=40, vectors=512), reports.append)
    assert [report["step"] for report in reports] == list(range(1, 41))
    assert reports[-1]["fvu"] < 0.5 * reports[0]["fvu"]
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(32))


def test_the_learning_rate_falls_to_zero_at_the_end_of_both_phases(data):
    """So that the weights come to rest: the last of 50 steps moves them by a tenth of a full step."""
    sae = new_autoencoder(SAEConfig(16, 32, "batchtopk", 2), data[0], seed=0)
    config = TrainingConfig(unsupervised_steps=50, supervised_steps=50, vectors=256, maps=16)
    groups = [group for group, _ in CONCEPTS]
    for train in (train_unsupervised, lambda *rest: train_supervised(rest[0], [0, 1, 2, 3, 4], groups, *rest[1:])):
        weights = [sae.W_enc.detach().clone()]
        train(sae, data[0], config, lambda _, weights=weights: weights.append(sae.W_enc.detach().clone()))
        moved = [(after - before).norm() for before, after in itertools.pairwise(weights)]
        assert moved[-1] < 0.3 * moved[39]


def test_statistics_are_plain_means_over_pictures_and_positions():
    """Two pictures with the concept and one without; steps run from high to low noise, statistics upwards."""
    sae = random_sae("relu", d=12)
    maps = torch.randn(3, 2, 5, 12, generator=torch.Generator().manual_seed(0)).half()
    data = ConceptMaps(maps, torch.tensor([[7.0, 0.5]]).repeat(3, 1), torch.tensor([[True], [False], [True]]))
    statistics = concept_statistics(sae, [4], data)
    z = sae.encode(maps.float())[..., 4].mean(dim=2).flip(1)  # [images, steps], noise rising
    assert statistics.sigmas.tolist() == [0.5, 7.0]
    torch.testing.assert_close(statistics.with_concept[:, 0], (z[0] + z[2]) / 2)
    torch.testing.assert_close(statistics.background[:, 0], z[1])
    torch.testing.assert_close(statistics.overall[:, 0], z.mean(dim=0))
