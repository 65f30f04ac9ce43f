"""After training: the threshold, statistics over noise levels, and how strongly to erase."""

import itertools

import pytest
import torch

from pure.planted import Planted, labelled_images, plant
from pure.random_sae import random_sae
from sae_eraser.sae_ops.autoencoder import SAEConfig
from sae_eraser.training.assign import latent_means
from sae_eraser.training.calibrate import THRESHOLD_BATCHES, concept_statistics, estimate_threshold, typical_multiplier
from sae_eraser.training.data import LabelledImages
from sae_eraser.training.learner import new_autoencoder

VECTORS = plant(range(10)).maps.flatten(0, 2)


@pytest.fixture(scope="module")
def planted() -> Planted:
    return plant(range(4))


@pytest.fixture(scope="module")
def images(planted, tmp_path_factory) -> LabelledImages:
    return labelled_images(tmp_path_factory.mktemp("planted"), planted)


def batches(size: int):
    for step in itertools.count():
        yield VECTORS[torch.randperm(len(VECTORS), generator=torch.Generator().manual_seed(step))[:size]]


def test_the_threshold_keeps_as_many_latents_as_training_did():
    sae = new_autoencoder(SAEConfig(16, 32, "batchtopk", 3), VECTORS, seed=0).requires_grad_(False)
    estimate_threshold(sae, batches(500))
    unseen = plant(range(100, 105)).maps.flatten(0, 2)
    assert (sae.encode(unseen) > 0).sum().item() / len(unseen) == pytest.approx(3, rel=0.05)


def test_the_threshold_is_the_mean_over_batches_of_the_smallest_latent_kept():
    sae = random_sae("batchtopk", d=16, k=2)
    some = itertools.islice(batches(100), THRESHOLD_BATCHES)
    smallest = [sae.pre_acts(batch).flatten().topk(2 * 100).values[-1] for batch in some]
    estimate_threshold(sae, batches(100))
    torch.testing.assert_close(sae.threshold, torch.stack(smallest).mean())


def test_an_sae_in_which_nothing_fires_is_refused():
    sae = random_sae("batchtopk", d=16)
    sae.b_enc -= 1000
    with pytest.raises(ValueError, match="No latent of the SAE fires.*--learning-rate"):
        estimate_threshold(sae, batches(100))


def test_topk_has_no_threshold():
    sae = random_sae("topk", d=16)
    before = sae.threshold.clone()
    estimate_threshold(sae, batches(100))
    assert torch.equal(sae.threshold, before)


def test_statistics_are_plain_means_over_pictures_and_positions(planted, images):
    sae, latents = random_sae("topk", d=16), [(4, 2), (9,), (4,), (0,), (1, 3, 2)]
    statistics = concept_statistics(latent_means(sae, images), images.levels()[0], latents)
    z = sae.encode(planted.maps.half().float()).mean(dim=2).flip(1)  # noise rising
    assert statistics.sigmas.tolist() == [0.5, 2.0, 8.0]
    terms = [(shows, latent) for shows, own in zip(planted.labels().T, latents, strict=True) for latent in own]
    for column, (shows, latent) in enumerate(terms):
        torch.testing.assert_close(statistics.with_concept[:, column], z[shows][..., latent].mean(dim=0))
        torch.testing.assert_close(statistics.background[:, column], z[~shows][..., latent].mean(dim=0))
        torch.testing.assert_close(statistics.overall[:, column], z[..., latent].mean(dim=0))


def test_the_multiplier_turns_a_latent_around_at_a_typical_noise_level(planted, images):
    means = latent_means(random_sae("topk", d=16), images)
    typical = means.with_concept[1, :, 9]
    assert typical.mean() > 0
    torch.testing.assert_close((typical_multiplier(means, 1, 9, 1.5) * typical).mean(), torch.tensor(-1.5))


def test_a_latent_that_never_fires_gets_the_plain_multiplier(images):
    sae = random_sae("topk", d=16)
    sae.b_enc[4] = -1000
    assert typical_multiplier(latent_means(sae, images), 0, 4, 1.5) == -1.5
