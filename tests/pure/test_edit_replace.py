"""The mode `replace`: a position with the concept takes the vector of the nearest position without it."""

import pytest
import torch

from sae_eraser.sae_ops.autoencoder import SAEConfig, SparseAutoencoder
from sae_eraser.sae_ops.concepts import Concept, ConceptStatistics
from sae_eraser.sae_ops.edit import ConceptEdit, Erasure

CONCEPTS = (Concept("first", "", (0,), -1.0), Concept("second", "", (1,), -1.0))


def replace(x: torch.Tensor, *erasures: Erasure) -> torch.Tensor:
    """Edits maps of 3 channels with an SAE whose latents are the channels; a gate of 0.5."""
    sae = SparseAutoencoder(SAEConfig(3, 3, "relu", 1)).requires_grad_(False)
    sae.W_enc.copy_(torch.eye(3))
    sae.W_dec.copy_(torch.eye(3))
    gate = torch.full((1, 2), 0.5)
    statistics = ConceptStatistics(torch.ones(1), 2 * gate, 0 * gate, gate)
    edit = ConceptEdit(sae, CONCEPTS, statistics, erasures or (Erasure(0, mode="replace"),))
    return edit(x, torch.ones(len(x)), torch.ones(len(x), dtype=torch.bool))


@pytest.fixture
def x() -> torch.Tensor:
    """Two maps of 4 x 6 positions; channel 0 fires at a quarter of them, the other channels tell positions apart."""
    generator = torch.Generator().manual_seed(0)
    x = -torch.rand(2, 3, 4, 6, generator=generator)
    x[:, 0] = torch.where(torch.rand(2, 4, 6, generator=generator) < 0.25, 1.0, 0.0)
    return x


def test_every_position_with_the_concept_takes_the_vector_of_a_nearest_one_without(x):
    result = replace(x)
    for before, after in zip(x, result, strict=True):
        detected = before[0] > 0.5
        donors = (~detected).nonzero()
        for place in detected.nonzero():
            distances = (donors - place).square().sum(dim=1)
            nearest = donors[distances == distances.min()]
            vector = after[:, place[0], place[1]]
            assert any(torch.equal(vector, before[:, row, column]) for row, column in nearest)


def test_vectors_are_never_taken_from_another_image(x):
    x[0, 0] = 1.0
    x[0, 0, 3, 5] = 0.0
    assert (replace(x)[0] == x[0, :, 3:, 5:]).all()


def test_positions_without_the_concept_keep_their_bits(x):
    untouched = (x[:, :1] <= 0.5).expand_as(x)
    assert torch.equal(replace(x)[untouched], x[untouched])


def test_the_concept_is_ablated_where_the_whole_map_has_it(x):
    x[0, 0] = 1.0
    result = replace(x)
    assert not result[0, 0].any()
    assert torch.equal(result[0, 1:], x[0, 1:])


def test_half_the_strength_goes_half_the_way(x):
    whole = replace(x) - x
    torch.testing.assert_close(replace(x, Erasure(0, 0.5, "replace")) - x, whole / 2)


def test_what_is_taken_is_free_of_the_other_concepts_that_are_erased():
    """One row: concept first | concept second | nothing | nothing."""
    x = torch.tensor([[1.0, 0, -1], [0, 1, -2], [0, 0, -3], [0, 0, -4]]).T.reshape(1, 3, 1, 4)
    result = replace(x, Erasure(0, mode="replace"), Erasure(1, mode="ablate"))
    assert result[0, :, 0].T.tolist() == [[0, 0, -2], [0, 0, -2], [0, 0, -3], [0, 0, -4]]


def test_in_a_video_the_nearest_is_in_the_same_frame():
    """Two frames of three rows. Of the first frame only the top row is free of the concept; all of the second is."""
    x = torch.zeros(1, 3, 2, 3, 1)
    x[0, 1] = torch.arange(6.0).reshape(2, 3, 1)
    x[0, 0, 0, 1:] = 1.0
    assert replace(x)[0, 1, :, :, 0].tolist() == [[0, 0, 0], [3, 4, 5]]


def test_in_a_long_text_as_well():
    """Rounded distances would mistake the nearest."""
    x = torch.zeros(1, 3, 9000, 1)
    x[0, 1, :, 0] = torch.arange(9000.0)
    x[0, 0, 1::2] = 1.0
    moved = (replace(x)[0, 1, :, 0] - x[0, 1, :, 0]).abs()
    assert torch.equal(moved, x[0, 0, :, 0])
