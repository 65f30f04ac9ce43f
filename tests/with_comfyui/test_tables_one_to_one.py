"""Where a concept was put into one latent or into several, the table of one-to-one says so."""

import pytest
import torch

from tables.one_to_one import OTHERS, auc, fit_probe, shares

IMAGES, WIDTH = 400, 12


def planted(carriers: int) -> dict[str, float]:
    """The shares where a concept is in the first so many of twelve latents, the first of which is called its own."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(IMAGES, generator=generator) < 0.3
    z = torch.rand(IMAGES, WIDTH, generator=generator)
    z[:, :carriers] += 2 * labels[:, None] / carriers
    first_half = torch.arange(IMAGES) % 2 == 0
    decoder = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0]
    x = z @ decoder
    (probe,) = fit_probe(x[first_half], labels[first_half, None])
    return shares(x, z, labels, first_half, decoder, probe, [0])


def test_one_latent_carries_all_of_its_concept():
    found = planted(1)
    assert found["AUC of the probe"] > 0.99
    assert found["AUC of the own latent"] > 0.99
    assert found["own"] == pytest.approx(1, abs=0.1)
    assert all(found[f"best {k} others"] < 0.1 for k in OTHERS)


def test_a_concept_spread_over_four_latents_is_not_in_its_own():
    found = planted(4)
    assert found["own"] == pytest.approx(0.25, abs=0.1)
    assert found["best 3 others"] == pytest.approx(0.75, abs=0.1)
    assert found["every latent"] == pytest.approx(1)


def test_auc():
    labels = torch.tensor([True, True, False, False])
    assert auc(torch.tensor([3.0, 2.0, 1.0, 0.0]), labels) == 1
    assert auc(torch.tensor([1.0, 1.0, 1.0, 1.0]), labels) == 0.5
    assert auc(torch.tensor([0.0, 2.0, 1.0, 1.0]), labels) == 0.5
