"""Strengthening a concept: what the edit adds, and how it goes together with erasing."""

import pytest
import torch

from pure.random_sae import CONCEPTS, random_sae, random_statistics
from sae_eraser.sae_ops.autoencoder import ACTIVATIONS
from sae_eraser.sae_ops.concepts import term_ranges
from sae_eraser.sae_ops.edit import ConceptEdit
from sae_eraser.sae_ops.erasure import STEER, Erasure

SIGMA = torch.tensor([0.3, 1.0])
"""Noise levels of the two maps of `x`."""
IS_COND = torch.tensor([True, False])


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 12, 3, 4, generator=torch.Generator().manual_seed(4))


def edit(x, *erasures, sae=None) -> torch.Tensor:
    return ConceptEdit(sae or random_sae(), CONCEPTS, random_statistics(), erasures)(x, SIGMA, IS_COND)


def steer(concept: int, strength: float = 1.0, **fields) -> Erasure:
    return Erasure(concept, strength, STEER, **fields)


def added(sae, concept: int) -> torch.Tensor:
    """What strength 1 adds to every vector of the two maps by the formula: sum of mu(sigma, D_c) W_dec, fp64 [2, d]."""
    terms = torch.tensor(list(term_ranges(CONCEPTS)[concept]))
    means = random_statistics().at(SIGMA, terms)["with_concept"].double()
    return means @ sae.W_dec[list(CONCEPTS[concept].latents)].double() / sae.input_scale.double()


@pytest.mark.parametrize("concept", [0, 1], ids=["one latent", "two latents"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_adds_the_mean_of_pictures_with_the_concept_at_every_position(x, activation, concept):
    sae = random_sae(activation)
    expected = x + 2.5 * added(sae, concept)[:, :, None, None]
    torch.testing.assert_close(edit(x, steer(concept, 2.5), sae=sae).double(), expected, rtol=1e-5, atol=1e-5)


def test_it_needs_no_latent_that_fires(x):
    sae = random_sae()
    sae.b_enc[0] = -1e4
    expected = x + added(sae, 0)[:, :, None, None]
    torch.testing.assert_close(edit(x, steer(0), sae=sae).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("mode", ["scale", "ablate", "clamp", "replace"])
def test_beside_erasures_it_adds_the_same_in_any_order(x, mode, activation):
    sae = random_sae(activation)
    erasures = Erasure(0, mode=mode), Erasure(3, 0.5)
    together = edit(x, *erasures, steer(2, 3.0), sae=sae)
    assert torch.equal(edit(x, steer(2, 3.0), *erasures[::-1], sae=sae), together)
    if mode != "replace":  # which copies whole vectors, with what was added there
        expected = edit(x, *erasures, sae=sae) + 3 * added(sae, 2)[:, :, None, None]
        torch.testing.assert_close(together.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_latent_that_is_both_erased_and_strengthened_gets_both(x):
    expected = edit(x, Erasure(1, mode="ablate")) + added(random_sae(), 1)[:, :, None, None]
    torch.testing.assert_close(edit(x, steer(1), Erasure(1, mode="ablate")).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "fields, edited",
    [
        ({"strength": 0.0}, [False, False]),
        ({"branch": "cond"}, [True, False]),
        ({"branch": "uncond"}, [False, True]),
        ({"sigma_start": 0.5}, [True, False]),
        ({"sigma_end": 0.5}, [False, True]),
    ],
    ids=str,
)
def test_strength_range_and_branch_decide_which_maps_change_at_all(x, fields, edited):
    result = edit(x, steer(0, **fields))
    assert [not torch.equal(after, before) for after, before in zip(result, x, strict=True)] == edited
    if not any(edited):
        assert result is x
