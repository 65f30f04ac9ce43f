"""An edit that is told which concepts a picture has shown in earlier calls of its run."""

from dataclasses import replace

import pytest
import torch

from pure.random_sae import CONCEPTS, random_sae, random_statistics
from sae_eraser.sae_ops.autoencoder import ACTIVATIONS, SAEConfig, SparseAutoencoder
from sae_eraser.sae_ops.concepts import Concept, ConceptStatistics
from sae_eraser.sae_ops.edit import ConceptEdit
from sae_eraser.sae_ops.erasure import Erasure

DETECTING = tuple(replace(concept, first_detects=True) for concept in CONCEPTS)
APART = (0, 1, 2)
"""Concepts that share no latent."""
COLUMNS = random_statistics().overall.shape[1]


def prepared(activation: str, bars: torch.Tensor, *concepts: int) -> ConceptEdit:
    """An edit of a random SAE that erases these concepts, of which each must reach its own of four means over a map."""
    detection = torch.zeros(3, 6)
    detection[:, [0, 1, 3, 4]] = bars
    statistics = replace(random_statistics(), detection=detection, positions=torch.tensor(35))
    erasures = tuple(Erasure(concept, mode="ablate") for concept in concepts)
    return ConceptEdit(random_sae(activation), DETECTING, statistics, erasures)


def call(edit: ConceptEdit, maps: torch.Tensor, shown: torch.Tensor | None = None) -> torch.Tensor:
    return edit(maps, torch.ones(len(maps)), torch.ones(len(maps), dtype=torch.bool), shown=shown)


def test_a_picture_that_once_had_enough_of_a_concept_need_not_have_as_much_again():
    """Maps of two positions: first with a mean of 1 and 0.5, then of 0.5 and 0.5; 0.6 is enough, 0.2 the gate."""
    sae = SparseAutoencoder(SAEConfig(2, 2, "relu", 1)).requires_grad_(False)
    sae.W_enc.copy_(torch.eye(2))
    sae.W_dec.copy_(torch.eye(2))
    gate, bar = torch.tensor([[0.2]]), torch.tensor([[0.6]])
    statistics = ConceptStatistics(torch.ones(1), gate, gate, gate, bar, torch.tensor(2))
    edit = ConceptEdit(sae, (Concept("it", "", (0,), first_detects=True),), statistics, (Erasure(0, mode="ablate"),))
    shown = torch.zeros(2, 1, dtype=torch.bool)
    much = torch.tensor([[[2.0, 0], [1, 1]], [[1, 0], [1, 1]]])[:, :, None]
    assert torch.equal(call(edit, much, shown)[:, 0, 0], torch.tensor([[0.0, 0], [1, 0]]))
    assert shown.tolist() == [[True], [False]]
    little = torch.tensor([[[1.0, 0.1], [1, 1]], [[1, 0.1], [1, 1]]])[:, :, None]
    assert torch.equal(call(edit, little), little)
    assert torch.equal(call(edit, little, shown)[:, 0, 0], torch.tensor([[0.0, 0.1], [1, 0.1]]))
    assert shown.tolist() == [[True], [False]]
    nothing = torch.full((2, 2, 1, 2), 0.1)
    assert call(edit, nothing, shown) is nothing and shown.tolist() == [[True], [False]]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_picture_goes_on_with_the_concepts_that_it_has_shown_itself(activation):
    """Five calls for six pictures, against every concept of every picture by itself."""
    generator = torch.Generator().manual_seed(5)
    calls = [torch.randn(6, 12, 5, 7, generator=generator) for _ in range(5)]
    means = [random_sae(activation).encode(maps.flatten(2).mT).mean(dim=1)[:, [0, 1, 2, 5]] for maps in calls]
    bars = torch.cat(means).quantile(0.8, dim=0)
    edit, free = prepared(activation, bars, *APART), [prepared(activation, 0 * bars, concept) for concept in APART]
    shown, met = torch.zeros(6, COLUMNS, dtype=torch.bool), torch.zeros(6, 4, dtype=torch.bool)
    for maps, reached in zip(calls, means, strict=True):
        met |= reached >= bars
        alone = torch.stack([call(one, maps) - maps for one in free], dim=1)
        expected = maps + (alone * met[:, APART, None, None, None]).sum(dim=1)
        torch.testing.assert_close(call(edit, maps, shown), expected, rtol=1e-5, atol=1e-5)
    assert 0.3 < met[:, APART].float().mean() < 1 and not (means[-1] >= bars)[met].all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_where_nothing_was_shown_earlier_it_is_the_edit_of_one_call(activation):
    maps = torch.randn(6, 12, 5, 7, generator=torch.Generator().manual_seed(6))
    bars = random_sae(activation).encode(maps.flatten(2).mT).mean(dim=1)[:, [0, 1, 2, 5]].median(dim=0).values
    edit = prepared(activation, bars, *APART)
    assert torch.equal(call(edit, maps, torch.zeros(6, COLUMNS, dtype=torch.bool)), call(edit, maps))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_one_edit_has_found_another_goes_on_with_whatever_else_it_erases(activation):
    maps = torch.randn(6, 12, 5, 7, generator=torch.Generator().manual_seed(7))
    free, never = (prepared(activation, torch.full((4,), bar), *APART) for bar in (0.0, 1e6))
    shown = torch.zeros(6, COLUMNS, dtype=torch.bool)
    call(prepared(activation, torch.zeros(4), 2, 0), maps, shown)
    two = prepared(activation, torch.zeros(4), 0, 2)
    assert torch.equal(call(never, maps, shown), call(two, maps)) and not torch.equal(call(two, maps), call(free, maps))


def test_of_two_erasures_of_one_concept_either_finds_it_for_both():
    """Of which the second acts in the half with the prompt, and the first in the other; only one has shown it."""
    statistics = replace(random_statistics(), detection=torch.zeros(3, COLUMNS), positions=torch.tensor(35))
    erasures = tuple(Erasure(0, mode="ablate", branch=branch) for branch in ("uncond", "cond"))
    edit = ConceptEdit(random_sae(), DETECTING, statistics, erasures)
    maps = torch.randn(1, 12, 5, 7, generator=torch.Generator().manual_seed(8)).repeat(2, 1, 1, 1)
    shown = torch.zeros(2, COLUMNS, dtype=torch.bool)
    edit(maps, torch.ones(2), torch.tensor([True, False]), shown=shown)
    assert shown[:, 0].all() and not shown[:, 1:].any()
