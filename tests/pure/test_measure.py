"""The measurement of an SAE, against the same numbers computed on all vectors at once."""

import itertools
from dataclasses import replace

import pytest
import torch

from pure.planted import CONCEPTS, HOOKPOINT, plant, write_cache
from pure.random_sae import random_sae
from sae_eraser.sae_ops.autoencoder import SAEConfig, SparseAutoencoder
from sae_eraser.training.cache.reader import Cache
from sae_eraser.training.data import LabelledImages
from sae_eraser.training.measure import Measurement, balanced_accuracy, explained_guidance, measure

LATENTS = [3, 11, 0, 7, 20]
PLANTED = plant(range(3))
LABELS = PLANTED.labels()
MAPS = PLANTED.maps.half().float()
LEVELS = [2, 1, 0]
"""Of the maps of an image, noise rising."""


def an_sae():
    """Its latents 5 and 6 never fire, and its logits are balanced around 0."""
    sae = random_sae("batchtopk", d=16)
    sae.b_enc -= sae.pre_acts(MAPS).mean(dim=(0, 1, 2))
    sae.b_enc[[5, 6]] = -1000
    return sae


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Measurement:
    cache = Cache(write_cache(tmp_path_factory.mktemp("planted"), PLANTED))
    return measure(
        an_sae(),
        [[latent] for latent in LATENTS],
        LabelledImages(cache, HOOKPOINT, list(range(18)), cache.labels(CONCEPTS)),
    )


def test_fvu_and_l0_are_those_of_all_vectors(measured):
    sae = an_sae()

    def fvu(x):
        return (sae(x) - x).square().sum() / (x - x.mean(dim=0)).square().sum()

    assert measured.sigmas.tolist() == [0.5, 2.0, 8.0]
    for place, step in enumerate(LEVELS):
        x = MAPS[:, step].flatten(0, 1)
        torch.testing.assert_close(measured.fvu[place], fvu(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(measured.l0[place], (sae.encode(x) > 0).float().sum(dim=1).mean())
    everything = MAPS.flatten(0, 2)
    assert measured.overall_fvu == pytest.approx(fvu(everything).item(), rel=1e-4)
    assert measured.overall_l0 == pytest.approx((sae.encode(everything) > 0).sum().item() / len(everything))


def test_what_is_drawn_is_measured_by_all_latents_of_a_concept_in_the_other_half(tmp_path):
    swapped = replace(PLANTED, maps=PLANTED.unprompted, unprompted=PLANTED.maps)
    cache = Cache(write_cache(tmp_path, swapped, branch="both"))
    images = LabelledImages(cache, HOOKPOINT, list(range(18)), cache.labels(CONCEPTS), "uncond")
    owned = [[3, 11], [0, 7], [20, 5], [1, 2], [4, 6]]
    found = measure(an_sae(), owned, images)
    there = torch.stack([an_sae().encode(MAPS)[..., own].sum(dim=3).mean(dim=2) for own in owned], dim=2)
    for column in range(5):
        yes, no = there[LABELS[:, column]][..., column], there[~LABELS[:, column]][..., column]
        accuracy = ((yes > 0.5).float().mean() + (no <= 0.5).float().mean()) / 2
        assert found.accuracy[column].item() == pytest.approx(accuracy.item(), abs=1e-6)
        torch.testing.assert_close(found.firing[column, column], yes.mean())


def test_latents_that_fired_nowhere_are_counted(measured):
    silent = ~(an_sae().encode(MAPS) > 0).flatten(0, 2).any(dim=0)
    assert silent[5] and silent[6]
    assert measured.never_fired == silent.sum()


def test_accuracy_separation_and_confusion_are_those_of_the_mean_logits(measured):
    logits = an_sae().pre_acts(MAPS)[..., LATENTS].mean(dim=2)  # [images, steps, concepts]
    for column in range(5):
        yes, no = logits[LABELS[:, column]][..., column], logits[~LABELS[:, column]][..., column]
        accuracy = ((yes > 0).float().mean() + (no <= 0).float().mean()) / 2
        torch.testing.assert_close(measured.accuracy[column], accuracy)
        spread = torch.cat([yes - yes.mean(), no - no.mean()]).square().mean().sqrt()
        torch.testing.assert_close(measured.separation[column], (yes.mean() - no.mean()) / spread)
    for row in range(5):
        torch.testing.assert_close(measured.detected[row], (logits[LABELS[:, row]] > 0).float().mean(dim=(0, 1)))
    assert measured.accuracy.unique().numel() > 1
    assert 0 < measured.detected.mean() < 1


def test_firing_is_the_mean_activation_in_pictures_that_show_a_concept(measured):
    z = an_sae().encode(MAPS)[..., LATENTS]
    for row in range(5):
        torch.testing.assert_close(measured.firing[row], z[LABELS[:, row]].mean(dim=(0, 1, 2)))


def test_a_concept_is_mistaken_only_in_pictures_that_do_not_show_it(measured):
    """Every picture has an object and a style: discs in wavy style are no discs taken for wavy ones."""
    z, logits = an_sae().encode(MAPS)[..., LATENTS], an_sae().pre_acts(MAPS)[..., LATENTS].mean(dim=2)
    for row, column in itertools.permutations(range(5), 2):
        apart = LABELS[:, row] & ~LABELS[:, column]
        torch.testing.assert_close(measured.mistaken[row, column], (logits[apart][..., column] > 0).float().mean())
        torch.testing.assert_close(measured.stray[row, column], z[apart][..., column].mean())
    assert measured.mistaken.diagonal().isnan().all() and measured.stray.diagonal().isnan().all()


def test_latents_explain_what_a_name_brings_as_far_as_their_sum_is_that():
    """Every picture has one of two objects and all have a style; half of the second's part is missing, the style's."""
    sae = SparseAutoencoder(SAEConfig(4, 4, "relu", 1))
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(4))
        sae.W_dec.copy_(torch.diag(torch.tensor([1.0, 0.5, 1.0, 1.0])))
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]).repeat(4, 1)
    unprompted = torch.zeros(8, 2, 4)
    maps = unprompted.clone()
    maps[..., :3] = labels[:, None]
    batches = [(maps[part], unprompted[part], labels[part]) for part in (slice(0, 3), slice(3, 8))]
    found = explained_guidance(sae, batches, [[0], [1], [2]])
    expected = [1, 1 - 0.5**2 / 1**2, 1 - 0.25**2 / (1 + 0.25**2)]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected))
    unseen = [(maps[::2], unprompted[::2], labels[::2])]
    assert explained_guidance(sae, unseen, [[0], [1], [2]])[1] is None


def test_topk_explains_what_a_name_brings_only_where_its_latents_are_among_the_largest():
    """The style brings more than the object to half of the positions, and one latent is kept at each."""
    sae = SparseAutoencoder(SAEConfig(2, 2, "topk", 1))
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(2))
        sae.W_dec.copy_(torch.eye(2))
    maps = torch.tensor([[1.0, 2.0], [1.0, 0.5]]).repeat(3, 1, 1)
    assert sae.encode(maps[0]).tolist() == [[0, 2], [1, 0]]
    batches = [(maps, torch.zeros_like(maps), shown) for shown in (torch.ones(3, 2), torch.zeros(3, 2))]
    found = explained_guidance(sae, batches, [[0], [1]])
    left = 1**2 + 0.5**2
    expected = [1 - left / (1**2 + 1**2 + 0.5**2), 1 - left / (1**2 + 2**2 + 0.5**2)]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected))


def test_what_no_map_shows_does_not_count_as_missed():
    shown = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]]).bool()
    said = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]]).bool()
    assert balanced_accuracy(said, shown).item() == pytest.approx(((0.5 + 1) / 2 + (1 + 2 / 3) / 2) / 2)
    assert balanced_accuracy(said[:, 2:], shown[:, 2:]).isnan()
