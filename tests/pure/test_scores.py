"""Scores and maps of concepts against their definitions."""

from dataclasses import replace

import pytest
import torch

from pure.random_sae import CONCEPTS, SIGMAS, random_statistics
from sae_eraser.sae_ops.concepts import term_ranges
from sae_eraser.sae_ops.scores import concept_scores, fired, relative

STATISTICS = random_statistics()
DOWN = SIGMAS.flip(0)


def constant(table: torch.Tensor, images: int = 2) -> torch.Tensor:
    """z [steps, images, terms, 3, 3] that is the table's everywhere, from the highest noise level down."""
    return table.flip(0)[:, None, :, None, None].expand(-1, images, -1, 3, 3)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, 2.0])
def test_a_score_says_how_far_from_without_to_with_the_concept(share):
    z = torch.lerp(constant(STATISTICS.background), constant(STATISTICS.with_concept), share)
    scores = concept_scores(z, DOWN, CONCEPTS, STATISTICS)
    torch.testing.assert_close(scores, torch.full((2, len(CONCEPTS)), share))


def test_it_does_not_matter_where_in_the_picture_it_fires():
    z = constant(STATISTICS.background).clone()
    z[..., 0, 0] += 9 * (STATISTICS.with_concept - STATISTICS.background).flip(0)[:, None]
    torch.testing.assert_close(concept_scores(z, DOWN, CONCEPTS, STATISTICS), torch.ones(2, len(CONCEPTS)))


def test_pictures_and_concepts_are_scored_by_themselves():
    z = constant(STATISTICS.background).clone()
    box = list(term_ranges(CONCEPTS)[1])
    z[:, 1, box] = constant(STATISTICS.with_concept)[:, 1, box]
    expected = torch.zeros(2, len(CONCEPTS))
    expected[1, 1] = 1
    torch.testing.assert_close(concept_scores(z, DOWN, CONCEPTS, STATISTICS), expected)


def test_steps_at_which_the_concept_shows_more_count_more():
    with_concept = STATISTICS.background.clone()
    with_concept[0] += 3.0
    with_concept[1] += 1.0
    statistics = replace(STATISTICS, with_concept=with_concept)
    z = constant(statistics.background).clone()
    z[-1] += 3.0  # the lowest noise level alone
    torch.testing.assert_close(concept_scores(z, DOWN, CONCEPTS, statistics), torch.full((2, 4), 0.75))


def test_a_concept_that_the_statistics_do_not_tell_apart_has_no_score():
    statistics = replace(STATISTICS, with_concept=STATISTICS.with_concept.clone())
    statistics.with_concept[:, 0] = statistics.background[:, 0] - 0.1
    scores = concept_scores(constant(statistics.background), DOWN, CONCEPTS, statistics)
    assert scores[:, 0].isnan().all() and scores[:, 1:].isfinite().all()


def test_nan_in_the_activations_is_not_hidden():
    z = constant(STATISTICS.background).clone()
    z[1, 0, 0, 0, 0] = torch.nan
    scores = concept_scores(z, DOWN, CONCEPTS, STATISTICS)
    assert scores[0, 0].isnan() and scores[1].isfinite().all()


def test_it_fires_where_one_of_its_latents_passes_its_gate():
    terms = term_ranges(CONCEPTS)[1]
    z = constant(STATISTICS.overall).clone()
    z[0, 0, terms[1], 2, 1] += 0.01
    z[1, 1, terms[0], 0, 0] += 0.01
    z[2, 0, terms[-1] + 1] += 0.01  # of another concept
    found = fired(z, DOWN, terms, STATISTICS)
    assert found.shape == (3, 2, 3, 3) and found.sum() == 2
    assert found[0, 0, 2, 1] and found[1, 1, 0, 0]


def test_relative_activations_are_1_on_average_in_pictures_with_the_concept():
    for terms in term_ranges(CONCEPTS):
        maps, usual = relative(constant(STATISTICS.with_concept), DOWN, terms, STATISTICS)
        torch.testing.assert_close(maps.mean(), torch.tensor(1.0))
        torch.testing.assert_close(maps.mean(dim=(1, 2, 3)), usual)
