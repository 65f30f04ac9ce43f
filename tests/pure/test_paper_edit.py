"""paper_compat: SAeUron's edit with the wrong sign, written out one position at a time."""

import pytest
import torch

from pure.random_sae import CONCEPTS, random_sae, random_statistics
from sae_eraser.sae_ops.autoencoder import ACTIVATIONS
from sae_eraser.sae_ops.edit import PAPER_COMPAT, ConceptEdit, Erasure
from sae_eraser.sae_ops.paper_edit import PaperEdit

SIGMAS, IS_COND = torch.tensor([0.1, 1.0, 10.0]), torch.tensor([True, False, True])
"""At the levels of the statistics, so that nothing is interpolated."""
PAPER = {"mode": PAPER_COMPAT}
ALL = tuple(Erasure(concept, **PAPER) for concept in range(3))


@pytest.fixture
def maps() -> torch.Tensor:
    """Not square."""
    return torch.randn(3, 12, 4, 3, generator=torch.Generator().manual_seed(4))


def published(sae, statistics, erased: dict[int, tuple[int, float]], maps: torch.Tensor) -> torch.Tensor:
    """erased: latent -> (term, multiplier). Every position of every picture by itself."""
    result = maps.clone()
    for image in range(len(maps)):
        for row in range(maps.shape[2]):
            for column in range(maps.shape[3]):
                x = maps[image, :, row, column]
                z = sae.encode(x)
                recon, edit = sae.decode(z), torch.zeros_like(x)
                for latent, (term, multiplier) in erased.items():
                    if z[latent] > statistics.overall[image, term]:
                        after = multiplier * statistics.with_concept[image, term] * z[latent]
                        edit += (after - z[latent]) * sae.W_dec[latent] / sae.input_scale
                result[image, :, row, column] = 2 * recon - x + edit
    return result


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_edit_is_the_published_one(maps, activation):
    sae, statistics = random_sae(activation), random_statistics()
    erased = {0: (0, -1.5), 1: (1, -0.5), 5: (2, -0.5), 2: (3, -3.0)}
    expected = published(sae, statistics, erased, maps)
    edited = PaperEdit(sae, CONCEPTS, statistics, ALL)(maps, SIGMAS, IS_COND)
    torch.testing.assert_close(edited, expected, rtol=0, atol=2e-5)


def test_its_error_has_the_sign_that_ours_has_not(maps):
    """The two differ by twice the error of the reconstruction, everywhere."""
    sae, statistics = random_sae(), random_statistics()
    ours = ConceptEdit(sae, CONCEPTS, statistics, tuple(Erasure(concept, mode="scale") for concept in range(3)))(
        maps, SIGMAS, IS_COND
    )
    published = PaperEdit(sae, CONCEPTS, statistics, ALL)(maps, SIGMAS, IS_COND)
    error = sae(maps.movedim(1, -1)).movedim(-1, 1) - maps
    torch.testing.assert_close(published - ours, 2 * error, rtol=0, atol=2e-5)
    assert error.abs().mean() > 0.1


def test_of_two_concepts_with_one_latent_the_last_wins(maps):
    """box and grainy share latent 5."""
    sae, statistics = random_sae(), random_statistics()
    box, grainy = {1: (1, -0.5), 5: (2, -0.5)}, {5: (4, 0.5), 7: (5, 0.5)}
    for order, erased in (((1, 3), box | grainy), ((3, 1), grainy | box)):
        edit = PaperEdit(sae, CONCEPTS, statistics, tuple(Erasure(concept, **PAPER) for concept in order))
        expected = published(sae, statistics, erased, maps)
        torch.testing.assert_close(edit(maps, SIGMAS, IS_COND), expected, rtol=0, atol=2e-5)


def test_pictures_out_of_range_and_branch_stay_themselves(maps):
    sae, statistics = random_sae(), random_statistics()
    edit = PaperEdit(sae, CONCEPTS, statistics, (Erasure(0, sigma_start=5.0, branch="cond", **PAPER),))
    edited = edit(maps, SIGMAS, IS_COND)
    assert torch.equal(edited[1:], maps[1:])
    assert not torch.equal(edited[0], maps[0])


def test_half_precision_comes_back_as_it_was(maps):
    edit = PaperEdit(random_sae(), CONCEPTS, random_statistics(), ALL).to(torch.device("cpu"))
    assert edit(maps.half(), SIGMAS, IS_COND).dtype == torch.float16


def test_other_modes_are_refused():
    with pytest.raises(ValueError, match="cannot be combined"):
        PaperEdit(random_sae(), CONCEPTS, random_statistics(), (Erasure(0, **PAPER), Erasure(1)))


def test_our_edit_refuses_its_mode():
    with pytest.raises(ValueError, match="paper_compat belongs to PaperEdit alone"):
        ConceptEdit(random_sae(), CONCEPTS, random_statistics(), ALL)
