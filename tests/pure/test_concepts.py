"""Finding concepts by name, and how their statistics run over noise levels."""

from dataclasses import replace

import pytest
import torch

from pure.random_sae import CONCEPTS, SIGMAS, random_statistics
from sae_eraser.sae_ops.concepts import (
    Concept,
    ConceptStatistics,
    UnknownConcept,
    detecting_alone,
    detecting_terms,
    find_concept,
    term_ranges,
)
from sae_eraser.sae_ops.scores import concept_scores, fired, relative

NAMESAKES = (*CONCEPTS, Concept("disc", "sound", (9,)), Concept("Art Deco: late", "style", (10,)))
MEANS = ("with_concept", "background", "overall")


@pytest.mark.parametrize("name", ["wavy", "WAVY", "  Wavy ", "style: wavy", "Style:WAVY"])
def test_a_concept_is_found_whatever_its_case_and_with_or_without_its_group(name):
    assert find_concept(CONCEPTS, name) == 2


def test_the_group_tells_namesakes_apart():
    assert find_concept(NAMESAKES, "object: disc") == 0
    assert find_concept(NAMESAKES, "sound: disc") == 4


def test_an_ambiguous_name_is_refused_with_the_choices():
    with pytest.raises(UnknownConcept, match="'disc' names 2 concepts.*'object: disc', 'sound: disc'"):
        find_concept(NAMESAKES, "disc")


def test_a_name_with_a_colon_in_it_is_found():
    assert find_concept(NAMESAKES, "Art Deco: late") == 5


@pytest.mark.parametrize(
    "name, index",
    [("Disc", 0), ("disc", 1), ("disc ", 2), ("object: Disc", 0), ("Caf\u00e9", 3), ("cafe\u0301", 3), ("a:b: dog", 4)],
)
def test_what_is_listed_can_be_chosen(name, index):
    """Namesakes by case or space alone, an accent written in two ways, and a colon in the group."""
    names = [("Disc", "object"), ("disc", "object"), ("disc ", "object"), ("Cafe\u0301", "place"), ("dog", "a:b")]
    concepts = tuple(Concept(own, group, (place,)) for place, (own, group) in enumerate(names))
    assert find_concept(concepts, name) == index


def test_an_unknown_name_lists_those_there_are_and_suggests_the_nearest():
    with pytest.raises(UnknownConcept, match="no concept 'wavi'. Did you mean 'wavy'.*disc, box, wavy, grainy"):
        find_concept(CONCEPTS, "wavi")


def test_the_nearest_name_is_suggested_whatever_its_case():
    with pytest.raises(UnknownConcept, match="Did you mean 'NEON'"):
        find_concept((Concept("NEON", "style", (0,)),), "neom")


@pytest.mark.parametrize("name", ["", "sound: box", "qqqqqq"])
def test_a_name_that_resembles_none_lists_those_there_are(name):
    with pytest.raises(UnknownConcept, match="disc, box, wavy, grainy"):
        find_concept(CONCEPTS, name)


def test_every_latent_of_every_concept_has_a_column():
    assert [list(columns) for columns in term_ranges(CONCEPTS)] == [[0], [1, 2], [3], [4, 5]]


def test_statistics_are_exact_at_their_noise_levels():
    statistics = random_statistics()
    means = statistics.at(SIGMAS, torch.arange(6))
    for name in MEANS:
        torch.testing.assert_close(means[name], getattr(statistics, name), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("sigma", "row"), [(10**-0.75, 0), (10**0.25, 1)])
def test_a_quarter_of_the_way_between_two_noise_levels_statistics_are_linear_in_log_sigma(sigma, row):
    statistics = random_statistics()
    means = statistics.at(torch.tensor([sigma]), torch.arange(6))
    for name in MEANS:
        table = getattr(statistics, name)
        torch.testing.assert_close(means[name][0], 0.75 * table[row] + 0.25 * table[row + 1])


def test_statistics_are_monotone_between_two_noise_levels():
    rising = torch.tensor([[1.0], [2.0], [5.0]])
    statistics = ConceptStatistics(SIGMAS, rising, rising, rising)
    values = statistics.at(torch.linspace(0.05, 20, 200), torch.tensor([0]))["overall"][:, 0]
    assert (values.diff() >= 0).all()
    assert values.min() == 1.0 and values.max() == 5.0


@pytest.mark.parametrize(("sigma", "row"), [(0.0, 0), (0.001, 0), (500.0, 2), (float("inf"), 2)])
def test_statistics_are_held_outside_their_noise_levels(sigma, row):
    statistics = random_statistics()
    means = statistics.at(torch.tensor([sigma]), torch.arange(6))
    for name in MEANS:
        torch.testing.assert_close(means[name][0], getattr(statistics, name)[row], rtol=1e-6, atol=0)


def test_statistics_of_one_noise_level_hold_everywhere():
    table = torch.tensor([[0.3, 0.4]])
    means = ConceptStatistics(torch.tensor([2.0]), table, table, table).at(
        torch.tensor([0.1, 2.0, 9.0]), torch.arange(2)
    )
    assert torch.equal(means["overall"], table.expand(3, 2))


def test_statistics_answer_for_the_terms_asked_and_every_image():
    means = random_statistics().at(torch.tensor([0.1, 10.0]), torch.tensor([4, 0, 4]))
    table = random_statistics().overall
    torch.testing.assert_close(means["overall"], table[[0, 2]][:, [4, 0, 4]], rtol=1e-6, atol=0)


def test_what_detects_a_concept_says_the_same_without_the_rest():
    concepts = tuple(replace(concept, first_detects=concept.name != "grainy") for concept in CONCEPTS)
    statistics = replace(random_statistics(), detection=random_statistics(seed=1).overall)
    own, own_statistics = detecting_alone(concepts, statistics)
    assert [concept.latents for concept in own] == [(0,), (1,), (2,), (5, 7)]
    z = torch.rand(2, 3, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    own_z, sigmas = z[:, :, [0, 1, 3, 4, 5]], torch.tensor([5.0, 0.5])
    assert torch.equal(
        concept_scores(own_z, sigmas, own, own_statistics), concept_scores(z, sigmas, concepts, statistics)
    )
    for terms, own_terms in zip(detecting_terms(concepts), detecting_terms(own), strict=True):
        assert torch.equal(fired(own_z, sigmas, own_terms, own_statistics), fired(z, sigmas, terms, statistics))
        pairs = zip(
            relative(own_z, sigmas, own_terms, own_statistics), relative(z, sigmas, terms, statistics), strict=True
        )
        assert all(torch.equal(one, other) for one, other in pairs)
        at, own_at = statistics.at(sigmas, torch.tensor(terms)), own_statistics.at(sigmas, torch.tensor(own_terms))
        assert torch.equal(own_at["detection"], at["detection"])
