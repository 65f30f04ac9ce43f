"""The edit against its formula, x' = x + sum over erased latents of (z' - z) W_dec, one vector at a time."""

import math
from dataclasses import replace
from itertools import permutations, product

import pytest
import torch

from pure.random_sae import CONCEPTS, random_sae, random_statistics
from sae_eraser.sae_ops.autoencoder import ACTIVATIONS, SAEConfig, SparseAutoencoder
from sae_eraser.sae_ops.concepts import Concept, ConceptStatistics, term_ranges
from sae_eraser.sae_ops.edit import ConceptEdit, Erasure

SIGMA = torch.tensor([0.3, 1.0, 4.0])
"""Noise levels of the three maps of `x`."""
BOTH = torch.tensor([True, True, False])
"""Guidance half of the three maps of `x`."""
NOWHERE = Concept("nowhere", "object", (3,), -1.0)


@pytest.fixture
def x() -> torch.Tensor:
    """Three maps of 5 x 7 positions, one third of the positions zero, where few latents fire."""
    generator = torch.Generator().manual_seed(2)
    kept = torch.rand(3, 1, 5, 7, generator=generator) > 0.3
    return torch.randn(3, 12, 5, 7, generator=generator) * kept


def edit(x, *erasures, sae=None, concepts=CONCEPTS, statistics=None, sigma=SIGMA, is_cond=BOTH) -> torch.Tensor:
    """The edit of the pack."""
    statistics = statistics or random_statistics(concepts)
    return ConceptEdit(sae or random_sae(), concepts, statistics, erasures)(x, sigma[: len(x)], is_cond[: len(x)])


def reference(x, *erasures, sae, sigma=SIGMA, is_cond=BOTH) -> torch.Tensor:
    """The same from the formula, in fp64, without any batching; all modes but replace."""
    result = x.double().clone()
    statistics = random_statistics()
    for image, row, column in torch.cartesian_prod(*(torch.arange(size) for size in (x.shape[0], *x.shape[2:]))):
        vector = x[image, :, row, column].double()
        z = latents(sae, vector)
        after, turned = z.clone(), False
        for erasure in erasures:
            on = erasure.sigma_end <= sigma[image] <= erasure.sigma_start
            if not on or erasure.branch == ("uncond" if is_cond[image] else "cond"):
                continue
            concept = CONCEPTS[erasure.concept]
            for term, latent in zip(term_ranges(CONCEPTS)[erasure.concept], concept.latents, strict=True):
                if z[latent] <= mean(statistics, "overall", term, sigma[image]):
                    continue
                turned |= erasure.mode == "turn"
                target = {
                    "turn": -concept.turn * z[latent],
                    "scale": concept.multiplier * mean(statistics, "with_concept", term, sigma[image]) * z[latent],
                    "ablate": 0.0,
                    "clamp": mean(statistics, "background", term, sigma[image]),
                }[erasure.mode]
                after[latent] = min(after[latent], z[latent] + erasure.strength * (target - z[latent]))
        edited = vector + (after - z) @ sae.W_dec.double() / sae.input_scale.double()
        if turned:
            centre = sae.input_shift.double()
            edited = centre + (edited - centre) * (vector - centre).norm() / (edited - centre).norm()
        result[image, :, row, column] = edited
    return result


def latents(sae: SparseAutoencoder, vector: torch.Tensor) -> torch.Tensor:
    """z of one vector [d] in fp64, one latent at a time."""
    normalised = (vector - sae.input_shift.double()) * sae.input_scale.double() - sae.b_dec.double()
    z = [max(0.0, float(row.double() @ normalised + bias)) for row, bias in zip(sae.W_enc, sae.b_enc, strict=True)]
    match sae.config.activation:
        case "topk":
            smallest = sorted(z, reverse=True)[sae.config.k - 1]
            z = [value if value >= smallest else 0.0 for value in z]
        case "batchtopk":
            z = [value if value > sae.threshold else 0.0 for value in z]
        case "jumprelu":
            z = [value if value > threshold else 0.0 for value, threshold in zip(z, sae.threshold, strict=True)]
    return torch.tensor(z, dtype=torch.float64)


def mean(statistics: ConceptStatistics, name: str, term: int, sigma: float) -> float:
    """A mean at a noise level, linear in log sigma between the two noise levels around it."""
    table = getattr(statistics, name)[:, term].double()
    levels = statistics.sigmas.double()
    upper = next(index for index in range(1, len(levels)) if levels[index] >= sigma)
    share = math.log(sigma / levels[upper - 1]) / math.log(levels[upper] / levels[upper - 1])
    return float((1 - share) * table[upper - 1] + share * table[upper])


@pytest.mark.parametrize("mode", ["turn", "scale", "ablate", "clamp"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_edit_is_the_formula(x, activation, mode):
    sae = random_sae(activation)
    erasures = (Erasure(1, 1.0, mode), Erasure(2, 0.6, mode))
    expected = reference(x, *erasures, sae=sae)
    assert (expected != x).any(dim=1).float().mean() > 0.1
    torch.testing.assert_close(edit(x, *erasures, sae=sae).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_edit_is_the_formula_with_all_modes_ranges_and_branches_at_once(x):
    sae = random_sae("jumprelu")
    erasures = (
        Erasure(0, 2.0, "scale", sigma_end=0.5),
        Erasure(1, 1.0, "ablate", branch="cond"),
        Erasure(2, 0.3, "clamp", sigma_start=2.0),
        Erasure(3, 1.0, "scale", branch="uncond"),
        Erasure(1, 0.5, "turn", sigma_start=0.5),
    )
    torch.testing.assert_close(
        edit(x, *erasures, sae=sae).double(), reference(x, *erasures, sae=sae), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("height, width", [(1, 1), (1, 9), (6, 2)])
def test_maps_of_any_shape_are_edited(height, width):
    x = torch.randn(3, 12, height, width, generator=torch.Generator().manual_seed(3))
    erasures = [Erasure(index) for index in range(4)]
    expected = reference(x, *erasures, sae=random_sae())
    torch.testing.assert_close(edit(x, *erasures).double(), expected, rtol=1e-5, atol=1e-5)


def test_topk_leaves_a_latent_alone_that_passes_its_gate_but_is_not_among_the_k_largest():
    sae = SparseAutoencoder(SAEConfig(3, 3, "topk", 1)).requires_grad_(False)
    sae.W_enc.copy_(torch.eye(3))
    sae.W_dec.copy_(torch.eye(3))
    gate = torch.tensor([[0.5]])
    statistics = ConceptStatistics(torch.tensor([1.0]), gate, gate, gate)
    x = torch.tensor([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0]]).T.reshape(1, 3, 1, 2)
    result = edit(x, Erasure(0, mode="ablate"), sae=sae, concepts=(Concept("first", "", (0,)),), statistics=statistics)
    assert result[0, :, 0].T.tolist() == [[1.0, 2.0, 0.0], [0.0, 1.0, 0.0]]


@pytest.mark.parametrize("mode", ["turn", "scale", "ablate", "clamp", "replace"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_positions_where_nothing_fires_keep_their_bits(x, mode, dtype):
    x = x.to(dtype)
    sae = random_sae()
    gate = random_statistics().at(SIGMA, torch.tensor([3]))["overall"]
    fires = sae.encode(x.float().movedim(1, -1))[..., 2] > gate[:, :, None]
    assert fires.any() and not fires.all()
    result = edit(x, Erasure(2, 1.0, mode), sae=sae)
    assert torch.equal(result.movedim(1, -1)[~fires], x.movedim(1, -1)[~fires])
    assert (result.movedim(1, -1)[fires] != x.movedim(1, -1)[fires]).any(dim=1).all()


def test_x_itself_is_returned_where_nothing_fires(x):
    sae = random_sae()
    sae.b_enc[2] = -1e4
    assert edit(x, Erasure(2), sae=sae) is x


def test_the_maps_given_stay_as_they_are(x):
    before = x.clone()
    assert edit(x, Erasure(0), Erasure(1, mode="replace")) is not x
    assert torch.equal(x, before)


def test_the_order_of_erasures_is_irrelevant_even_if_they_share_a_latent(x):
    erasures = (Erasure(0), Erasure(1, 0.5), Erasure(3, mode="clamp"), Erasure(1, 1.0, "ablate", 2.0))
    first, *others = (edit(x, *order) for order in permutations(erasures))
    assert all(torch.equal(first, other) for other in others)


def test_of_two_erasures_that_share_a_latent_the_one_that_lowers_it_most_wins(x):
    strong, weak = Erasure(2, 1.0, "scale"), Erasure(2, 1.0, "ablate")
    assert torch.equal(edit(x, weak, strong), edit(x, strong))
    assert not torch.equal(edit(x, weak), edit(x, strong))


def test_erasing_twice_is_erasing_once(x):
    assert torch.equal(edit(x, Erasure(1), Erasure(1)), edit(x, Erasure(1)))


@pytest.mark.parametrize("mode", ["scale", "ablate", "clamp"])
@pytest.mark.parametrize("strength", [0.0, 0.5, 3.0])
def test_the_edit_is_linear_in_its_strength(x, mode, strength):
    whole = edit(x, Erasure(1, 1.0, mode)) - x
    torch.testing.assert_close(edit(x, Erasure(1, strength, mode)) - x, strength * whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "start, end, edited",
    [
        (math.inf, 0.0, [True, True, True]),
        (1.0, 0.0, [True, True, False]),
        (math.inf, 1.0, [False, True, True]),
        (0.9, 0.5, [False, False, False]),
    ],
)
def test_only_noise_levels_within_the_range_are_edited_both_ends_included(x, start, end, edited):
    result = edit(x, Erasure(1, sigma_start=start, sigma_end=end))
    assert [not torch.equal(after, before) for after, before in zip(result, x, strict=True)] == edited


@pytest.mark.parametrize("branch, edited", [("both", [1, 1, 1]), ("cond", [1, 1, 0]), ("uncond", [0, 0, 1])])
def test_only_the_chosen_half_of_guidance_is_edited(x, branch, edited):
    result = edit(x, Erasure(1, branch=branch))
    assert [int(not torch.equal(after, before)) for after, before in zip(result, x, strict=True)] == edited


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", ["scale", "replace"])
def test_half_precision_stays_half_precision(x, dtype, mode):
    half = x.to(dtype)
    result = edit(half, Erasure(1, mode=mode))
    assert result.dtype == dtype
    torch.testing.assert_close(result, edit(half.float(), Erasure(1, mode=mode)).to(dtype))


@pytest.mark.parametrize("mode", ["scale", "replace"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_image_of_a_batch_is_edited_as_if_alone(x, activation, mode):
    sae = random_sae(activation)
    together = edit(x, Erasure(1, mode=mode), Erasure(2), sae=sae)
    for image in range(3):
        part = slice(image, image + 1)
        alone = edit(x[part], Erasure(1, mode=mode), Erasure(2), sae=sae, sigma=SIGMA[part], is_cond=BOTH[part])
        torch.testing.assert_close(together[part], alone, rtol=1e-6, atol=1e-6)


def test_memory_that_is_not_contiguous_is_edited_alike(x):
    channels_last = x.to(memory_format=torch.channels_last)
    assert torch.equal(edit(channels_last, Erasure(1)), edit(x, Erasure(1)))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_edit_moved_to_a_device_is_the_same_edit(x, activation):
    erasures = (Erasure(1), Erasure(2, 0.5, "clamp"))
    original = ConceptEdit(random_sae(activation), CONCEPTS, random_statistics(), erasures)
    assert torch.equal(original.to(torch.device("cpu"))(x, SIGMA, BOTH), original(x, SIGMA, BOTH))


def test_nothing_is_recorded_for_gradients(x):
    sae = random_sae().requires_grad_(True)
    assert not edit(x.requires_grad_(True), Erasure(1), sae=sae).requires_grad


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf, -math.inf])
def test_a_strength_that_would_leave_the_concept_or_spoil_the_picture_is_refused(wrong):
    with pytest.raises(ValueError, match="strength is"):
        Erasure(0, wrong)


@pytest.mark.parametrize("start, end", [(0.5, 1.0), (math.nan, 0.0), (1.0, math.nan)])
def test_a_range_of_noise_levels_that_holds_none_is_refused(start, end):
    with pytest.raises(ValueError, match="Exchange start and end"):
        Erasure(0, sigma_start=start, sigma_end=end)


@pytest.mark.parametrize("wrong", [{"mode": "delete"}, {"branch": "left"}])
def test_an_unknown_mode_or_branch_is_refused_with_those_there_are(wrong):
    with pytest.raises(ValueError, match="'(delete|left)'; known are .*(ablate|uncond)"):
        Erasure(0, **wrong)


def detected_by_its_first(x: torch.Tensor, mode: str, mean: float | None = None, latents=(0, 1)) -> torch.Tensor:
    """Erases a concept of two latents, the first of which detects it, with an SAE whose latents are the channels.

    mean: what the first must reach over two positions of a map, if there is such a mean.
    """
    sae = SparseAutoencoder(SAEConfig(3, 3, "relu", 1)).requires_grad_(False)
    sae.W_enc.copy_(torch.eye(3))
    sae.W_dec.copy_(torch.eye(3))
    gate = torch.full((1, len(latents)), 0.5)
    concept = Concept("first", "", latents, first_detects=True)
    detection = None if mean is None else torch.tensor([[mean, 0.0][: len(latents)]])
    positions = None if mean is None else torch.tensor(2)
    statistics = ConceptStatistics(torch.ones(1), gate, gate, gate, detection, positions)
    return edit(x, Erasure(0, mode=mode), sae=sae, concepts=(concept,), statistics=statistics, sigma=torch.ones(3))


def test_where_the_first_latent_detects_the_others_move_only_in_maps_in_which_it_fires():
    """Two maps of two positions; the first latent fires in the first position of the first map alone."""
    x = torch.tensor([[[1.0, 0, 2], [0, 1, 2]], [[0.0, 1, 2], [0, 1, 2]]]).movedim(2, 1)[:, :, None]
    result = detected_by_its_first(x, "ablate")
    assert result[0, :, 0].T.tolist() == [[0, 0, 2], [0, 0, 2]]
    assert torch.equal(result[1], x[1])


@pytest.mark.parametrize("latents", [(0, 1), (0,)])
def test_a_map_shows_a_concept_only_if_its_first_latent_reaches_its_mean(latents):
    """Maps of two positions, over which the first latent has a mean of 0.5, 1 and 0; it passes its gate in two."""
    x = torch.tensor([[[1.0, 0], [0, 1], [2, 2]], [[2, 0], [0, 1], [2, 2]], [[0, 0], [1, 1], [2, 2]]])[:, :, None]
    as_ever = detected_by_its_first(x, "ablate", None, latents)
    assert [bool((now != before).any()) for now, before in zip(as_ever, x, strict=True)] == [True, True, False]
    assert torch.equal(detected_by_its_first(x, "ablate", 0.0, latents), as_ever)
    assert torch.equal(detected_by_its_first(x, "ablate", 0.5, latents), as_ever)
    some = detected_by_its_first(x, "ablate", 0.6, latents)
    assert torch.equal(some[1], as_ever[1]) and torch.equal(some[[0, 2]], x[[0, 2]])
    assert torch.equal(detected_by_its_first(x, "ablate", 1.1, latents), x)


def test_a_concept_that_fills_as_much_of_a_larger_map_is_found_in_it_as_well():
    """A mean of 0.6 over two positions, of which there are now eight; in a map of one it is a mean over one."""
    larger = torch.zeros(3, 3, 1, 8)
    larger[:, 0, 0, 0] = torch.tensor([1.1, 1.3, 0.0])
    edited = detected_by_its_first(larger, "ablate", 0.6)
    assert [bool((now != before).any()) for now, before in zip(edited, larger, strict=True)] == [False, True, False]
    smaller = larger[..., :1] / 2
    edited = detected_by_its_first(smaller, "ablate", 0.6)
    assert [bool((now != before).any()) for now, before in zip(edited, smaller, strict=True)] == [False, True, False]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_of_several_concepts_each_is_detected_by_its_own_mean(activation, x):
    """Which of them maps may show is worked out for all of them at once, before the edit."""
    sae, detecting = random_sae(activation), tuple(replace(concept, first_detects=True) for concept in CONCEPTS)
    means = sae.encode(x.flatten(2).mT).mean(dim=1)[:, [concept.latents[0] for concept in CONCEPTS]]
    detection = torch.zeros(3, 6)
    reached = means.sort(dim=0).values[[1, 2, 1, 2], range(4)]  # in two maps, or in one
    detection[:, [0, 1, 3, 4]] = reached * (1 - 1e-6)
    statistics = replace(random_statistics(), detection=detection, positions=torch.tensor(35))
    settings = {"sae": sae, "concepts": detecting, "statistics": statistics, "is_cond": torch.ones(3, dtype=torch.bool)}
    erasures = [Erasure(index, mode="ablate") for index in range(4)]
    alone = torch.stack([edit(x, erasure, **settings) - x for erasure in erasures])
    changed = (alone != 0).flatten(2).any(dim=2)
    assert torch.equal(changed, (means >= detection[0, [0, 1, 3, 4]]).T)
    for one, other in ((0, 1), (0, 3), (1, 2), (2, 3)):  # pairs that share no latent
        both = edit(x, erasures[one], erasures[other], **settings)
        torch.testing.assert_close(both - x, alone[one] + alone[other], atol=1e-5, rtol=1e-5)


def test_what_an_edit_keeps_ready_is_for_the_call_that_it_was_made_for(x, monkeypatch):
    """More noise levels, halves and selections of concepts than it keeps, each of them twice."""
    monkeypatch.setattr("sae_eraser.sae_ops.edit.MOST_CALLS", 3)
    monkeypatch.setattr("sae_eraser.sae_ops.edit.MOST_SELECTIONS", 2)
    concepts = (Concept("first", "", (0, 3), 0.0, first_detects=True), Concept("second", "", (1, 4), 0.0))
    erasures = (Erasure(0), Erasure(1, branch="cond", sigma_end=1.0))
    kept = ConceptEdit(random_sae(), concepts, random_statistics(concepts), erasures)
    for sigma, halves, maps in 2 * list(product((SIGMA, SIGMA.flip(0), SIGMA + 1), (BOTH, ~BOTH), (x, x.roll(5, 1)))):
        expected = edit(maps, *erasures, concepts=concepts, sigma=sigma, is_cond=halves)
        assert torch.equal(kept(maps, sigma, halves), expected)
        assert len(kept._calls) <= 3 and len(kept._selections) <= 2


@pytest.mark.parametrize("kind", [("groupmax", 6), ("relu", 6, "layer")], ids=str)
def test_an_sae_that_no_edit_is_made_for_is_refused(kind):
    sae = SparseAutoencoder(SAEConfig(12, 24, *kind))
    with pytest.raises(ValueError, match="cannot erase; only topk.* without an input norm can"):
        ConceptEdit(sae, CONCEPTS, random_statistics(), (Erasure(0),))


def test_an_erasure_that_moves_nothing_is_no_bar_to_one_of_the_same_latent_that_raises_it(x):
    """Clamping raises what fires between its gate and its background; the other is for the prompt's half alone."""
    concepts = (Concept("first", "", (0,)), Concept("second", "", (0,)))
    low, high = torch.zeros(1, 2), torch.full((1, 2), 50.0)
    statistics = ConceptStatistics(torch.ones(1), high, high, low)
    of = {"concepts": concepts, "statistics": statistics}
    clamped, ablated = Erasure(0, mode="clamp"), Erasure(1, mode="ablate", branch="cond")
    alone = edit(x, clamped, **of)
    assert not torch.equal(alone, x)
    together = edit(x, clamped, ablated, **of)
    torch.testing.assert_close(together[~BOTH], alone[~BOTH])
    torch.testing.assert_close(together[BOTH], edit(x, ablated, **of)[BOTH])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_concepts_that_no_map_shows_cost_nothing_and_change_nothing(activation, x):
    """Of three concepts the first is in no map, whatever its other latent does."""
    concepts = tuple(
        Concept(name, "", latents, first_detects=True)
        for name, latents in [("a", (0, 1)), ("b", (5, 2)), ("c", (7, 1))]
    )
    gate = torch.tensor([[1e9, 0, 0, 0, 0, 0]])
    statistics = ConceptStatistics(torch.ones(1), gate, 0 * gate, gate)
    of = {"sae": random_sae(activation), "concepts": concepts, "statistics": statistics, "sigma": torch.ones(len(x))}
    assert edit(x, Erasure(0), **of) is x
    others = edit(x, Erasure(1), Erasure(2), **of)
    torch.testing.assert_close(edit(x, Erasure(0), Erasure(1), Erasure(2), **of), others)
    assert not torch.equal(others, x)


def test_only_where_the_first_latent_fires_is_replaced():
    x = torch.tensor([[[1.0, 0, 2], [0, 1, 3], [0, 0, 4]]]).movedim(2, 1)[:, :, None]
    result = detected_by_its_first(x, "replace")
    assert result[0, :, 0].T.tolist() == [[0, 1, 3], [0, 1, 3], [0, 0, 4]]


def test_turning_is_away_from_the_concept_at_the_same_length_and_stronger_is_farther(x):
    sae, before = random_sae(), x.movedim(1, -1) - random_sae().input_shift
    decoder = sae.W_dec[CONCEPTS[0].latents[0]]
    along = []
    for strength in (0.0, 0.3, 1.0, 3.0, 30.0):
        after = edit(x, Erasure(0, strength), sae=sae).movedim(1, -1) - sae.input_shift
        torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1))
        along.append((after @ decoder).mean())
    assert along == sorted(along, reverse=True) and along[-1] < along[0]
