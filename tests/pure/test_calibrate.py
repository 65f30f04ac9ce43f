"""After training: the threshold, statistics over noise levels, and how strongly to erase."""

import itertools

import pytest
import torch

from pure.planted import CONCEPTS, HOOKPOINT, Planted, plant, write_cache
from pure.random_sae import random_sae
from sae_eraser.sae_ops.autoencoder import SAEConfig
from sae_eraser.training.cache import Cache
from sae_eraser.training.calibrate import (
    DEPTH,
    calibrated_multipliers,
    concept_statistics,
    estimate_threshold,
)
from sae_eraser.training.data import LabelledImages
from sae_eraser.training.learner import new_autoencoder

VECTORS = plant(range(10)).maps.flatten(0, 2)


@pytest.fixture(scope="module")
def planted() -> Planted:
    return plant(range(4))


@pytest.fixture(scope="module")
def images(planted, tmp_path_factory) -> LabelledImages:
    cache = Cache(write_cache(tmp_path_factory.mktemp("planted"), planted))
    return LabelledImages(cache, HOOKPOINT, list(range(24)), cache.labels(CONCEPTS))


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
    smallest = [sae.pre_acts(batch).flatten().topk(2 * 100).values[-1] for batch in itertools.islice(batches(100), 4)]
    estimate_threshold(sae, batches(100), count=4)
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
    sae = random_sae("topk", d=16)
    statistics = concept_statistics(sae, [4, 9, 4, 0, 1], images)
    z = sae.encode(planted.maps.half().float())[..., [4, 9, 4, 0, 1]].mean(dim=2).flip(1)  # noise rising
    assert statistics.sigmas.tolist() == [0.5, 2.0, 8.0]
    for column, shows in enumerate(planted.labels().T):
        torch.testing.assert_close(statistics.with_concept[:, column], z[shows][..., column].mean(dim=0))
        torch.testing.assert_close(statistics.background[:, column], z[~shows][..., column].mean(dim=0))
        torch.testing.assert_close(statistics.overall[:, column], z[..., column].mean(dim=0))


def test_a_multiplier_puts_the_logit_depth_times_as_far_below_the_background_as_it_stood_above(planted, images):
    """z' = gamma mu z moves the logit by (z' - z) W_enc . W_dec."""
    sae, maps = random_sae("relu", d=16), planted.maps.half().float()
    latents, gains = [4, 9, 2, 0, 1], (1.0, 0.5, 2.0, 0.7, 1.3)
    sae.W_enc[latents] = sae.W_dec[latents] * torch.tensor(gains)[:, None]
    sae.b_enc -= sae.pre_acts(maps).mean(dim=(0, 1, 2))  # so that all of them fire somewhere
    statistics = concept_statistics(sae, latents, images)
    logits = sae.pre_acts(maps)[..., latents]
    found = calibrated_multipliers(sae, latents, images, statistics)
    for column, (shows, gain) in enumerate(zip(planted.labels().T, gains, strict=True)):
        fires = logits[shows][..., column].clamp(min=0)
        typical, background = fires.sum() / (fires > 0).sum(), logits[~shows][..., column].mean()
        z_after = found[column] * statistics.with_concept[:, column].mean() * typical
        logit_after = typical + (z_after - typical) * gain
        torch.testing.assert_close(logit_after - background, -DEPTH * (typical - background), rtol=1e-3, atol=1e-3)


def test_a_latent_that_never_fires_gets_the_plain_multiplier(images):
    sae = random_sae("topk", d=16)
    sae.b_enc[4] = -1000
    latents = [4, 9, 2, 0, 1]
    multipliers = calibrated_multipliers(sae, latents, images, concept_statistics(sae, latents, images))
    assert multipliers[0] == -1.0
    assert -1.0 not in multipliers[1:]
