"""Masks: their weights on maps of every size, and edits that only act where they are."""

import pytest
import torch
from torch.nn import functional as F

from pure.random_sae import CONCEPTS, random_sae, random_statistics
from sae_eraser.sae_ops.autoencoder import ACTIVATIONS
from sae_eraser.sae_ops.concepts import Concept, ConceptStatistics
from sae_eraser.sae_ops.edit import ConceptEdit
from sae_eraser.sae_ops.erasure import PAPER_COMPAT, STEER, Erasure
from sae_eraser.sae_ops.masks import Place, mask_weights

SIGMA, IS_COND = torch.tensor([0.3, 1.0]), torch.tensor([True, True])


def whole(height: int, width: int, images: int = 1, chunks: int = 1, patch: int = 1) -> Place:
    covered = (-(-height // patch) * patch, -(-width // patch) * patch)
    return Place((height, width), (height, width), covered, ((0, 0),) * chunks, images, tuple(range(images)))


def left_half(height: int, width: int) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    mask[:, :, : width // 2] = 1
    return mask


@pytest.mark.parametrize("mask_size", [(512, 768), (8, 12), (2, 2), (3, 4), (100, 30)], ids=str)
@pytest.mark.parametrize("map_size", [(8, 12), (4, 6), (2, 2)], ids=str)
def test_half_a_mask_covers_half_of_any_map(mask_size, map_size):
    weights = mask_weights(left_half(*mask_size), whole(8, 12), map_size).reshape(map_size)
    assert torch.equal(weights, left_half(*map_size)[0])


def test_a_position_has_the_share_of_it_that_is_masked():
    mask = torch.zeros(1, 4, 4)
    mask[0, 0, 0], mask[0, 3] = 1.0, 0.5
    weights = mask_weights(mask, whole(4, 4), (2, 2))
    torch.testing.assert_close(weights, torch.tensor([[0.25, 0.0, 0.25, 0.25]]))


def test_a_thin_mask_is_not_lost_between_positions():
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 13] = 1
    assert mask_weights(mask, whole(8, 8), (4, 4)).reshape(4, 4)[:, 0].gt(0).all()


def test_each_picture_has_its_own_mask_in_every_chunk():
    masks = torch.stack([torch.full((4, 4), value) for value in (0.25, 1.0)])
    weights = mask_weights(masks, whole(4, 4, images=2, chunks=3), (2, 2))
    assert weights[:, 0].tolist() == [0.25, 1.0] * 3
    one = mask_weights(masks[:1], whole(4, 4, images=2, chunks=3), (2, 2))
    assert one.shape == (6, 4) and (one == 0.25).all()


@pytest.mark.parametrize("masks, images", [(3, 2), (2, 1), (2, 3)])
def test_another_number_of_masks_than_of_pictures_is_refused(masks, images):
    with pytest.raises(ValueError, match=f"batch of {masks}, but {images} pictures.*Give one mask"):
        mask_weights(torch.ones(masks, 4, 4), whole(4, 4, images=images), (2, 2))


def test_a_cut_out_has_its_own_part_of_the_mask():
    mask = torch.arange(32.0).reshape(1, 4, 8) / 32
    place = Place((4, 8), (2, 4), (2, 4), ((0, 0), (2, 4)), 1, (0,))
    weights = mask_weights(mask, place, (2, 4)).reshape(2, 2, 4)
    assert torch.equal(weights, torch.stack([mask[0, :2, :4], mask[0, 2:, 4:]]))


def test_the_last_patch_of_an_odd_picture_reaches_beyond_it():
    mask = torch.zeros(1, 3, 5)
    mask[:, :, 4:], mask[:, 2:] = 1, 1
    weights = mask_weights(mask, whole(3, 5, patch=2), (2, 3)).reshape(2, 3)
    assert weights.tolist() == [[0, 0, 1], [1, 1, 1]]


def test_every_frame_has_the_same_mask():
    weights = mask_weights(left_half(4, 4), whole(4, 4), (3, 2, 2)).reshape(3, 2, 2)
    assert torch.equal(weights, left_half(2, 2).expand(3, 2, 2))


def test_vectors_that_are_no_map_are_refused():
    with pytest.raises(ValueError, match="cannot be told by their place"):
        mask_weights(left_half(4, 4), whole(4, 4), (20, 1))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 12, 4, 6, generator=torch.Generator().manual_seed(5))


def edit(x, *erasures, sae=None, place=None) -> torch.Tensor:
    place = place or whole(4, 6, images=2)
    return ConceptEdit(sae or random_sae(), CONCEPTS, random_statistics(), erasures)(x, SIGMA, IS_COND, place)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("mode", ["scale", "ablate", "clamp", "replace", STEER])
def test_inside_it_is_edited_as_without_a_mask_and_outside_not_a_bit(x, mode, activation):
    sae = random_sae(activation)
    everywhere = edit(x, Erasure(0, mode=mode), sae=sae)
    result = edit(x, Erasure(0, mode=mode, mask=left_half(4, 6)), sae=sae)
    assert torch.equal(result[..., 3:], x[..., 3:])
    torch.testing.assert_close(result[..., :3], everywhere[..., :3])
    assert not torch.equal(result[..., :3], x[..., :3]) and not torch.equal(everywhere[..., 3:], x[..., 3:])
    white = torch.ones(1, 5, 5)
    assert torch.equal(edit(x, Erasure(0, mode=mode, mask=white), sae=sae), everywhere)
    assert torch.equal(edit(x, Erasure(0, mode=mode, mask=0 * white), sae=sae), x)


@pytest.mark.parametrize("mode", ["turn", "scale", "ablate", "clamp", "replace"])
def test_a_concept_that_is_detected_outside_is_erased_inside(x, mode):
    """Its first latent fires in the left half alone, its other one everywhere."""
    concept, sae = Concept("seen", "", (0, 1), first_detects=True), random_sae("relu")
    with torch.no_grad():
        sae.W_enc[:2], sae.b_enc[:2] = 0, torch.tensor([-1.0, 1.0])
        sae.W_enc[0, 0], sae.b_dec[:] = 1, 0
    x[:, 0, :, :3], x[:, 0, :, 3:] = sae.input_shift[0] + 9, sae.input_shift[0] - 9
    level = torch.ones(1, 2)
    statistics = ConceptStatistics(torch.ones(1), level, 0 * level, 0 * level)
    right = 1 - left_half(4, 6)

    def changed(mask):
        edit = ConceptEdit(sae, (concept,), statistics, (Erasure(0, mode=mode, mask=mask),))
        return edit(x, SIGMA, IS_COND, whole(4, 6, images=2))

    assert torch.equal(changed(right)[..., :3], x[..., :3])
    torch.testing.assert_close(changed(right)[..., 3:], changed(None)[..., 3:])
    if mode != "replace":  # there only positions where the concept was detected are exchanged
        assert not torch.equal(changed(right), x)


@pytest.mark.parametrize("mode", ["scale", "ablate", "clamp", "replace", STEER])
def test_grey_is_a_lower_strength(x, mode):
    grey = torch.full((1, 4, 6), 0.25)
    masked, weaker = edit(x, Erasure(1, 1.0, mode, mask=grey)), edit(x, Erasure(1, 0.25, mode))
    torch.testing.assert_close(masked, weaker)
    assert not torch.equal(masked, x)


def test_two_erasures_of_one_concept_act_where_either_mask_is(x):
    left, right = left_half(4, 6), 1 - left_half(4, 6)
    both = edit(x, Erasure(1, mask=left), Erasure(1, mask=right))
    assert torch.equal(both, edit(x, Erasure(1)))
    unmasked = edit(x, Erasure(0, mask=left), Erasure(2))
    torch.testing.assert_close(unmasked[..., 3:], edit(x, Erasure(2))[..., 3:])
    torch.testing.assert_close(unmasked[..., :3], edit(x, Erasure(0), Erasure(2))[..., :3])


def test_replaced_positions_take_no_vector_from_outside_the_mask_where_the_concept_is(x):
    """The concept's latent fires at all positions but the last; only the first is masked."""
    sae = random_sae()
    sae.W_enc[0], sae.b_enc[0] = 0, 5.0
    sae.W_enc[0, 3] = 1.0
    x[:, 3] = 0.0
    x[:, 3, -1, -1] = -100.0
    mask = torch.zeros(1, 4, 6)
    mask[:, 0, 0] = 1
    result = edit(x, Erasure(0, mode="replace", mask=mask), sae=sae)
    assert torch.equal(result[:, :, 0, 0], x[:, :, -1, -1])
    result[:, :, 0, 0] = x[:, :, 0, 0]
    assert torch.equal(result, x)


def test_masks_are_pooled_on_the_cpu_and_once_for_all_steps(x, monkeypatch):
    pooled, pool = [], F.adaptive_avg_pool2d

    def noted(maps, size):
        pooled.append(maps.device.type)
        return pool(maps, size)

    monkeypatch.setattr(F, "adaptive_avg_pool2d", noted)
    edit = ConceptEdit(random_sae(), CONCEPTS, random_statistics(), (Erasure(0, mask=left_half(4, 6)),))
    elsewhere = edit.to(torch.device("meta"))
    for place in (whole(4, 6, images=2), whole(8, 12, images=2)):
        for maps in (x, x.to("meta")):
            here = edit if maps is x else elsewhere
            before = len(pooled)
            weights = here._mask_weights(maps, place)
            assert weights.device == maps.device and len(pooled) == before + 2
            assert here._mask_weights(maps, place) is weights and len(pooled) == before + 2
    assert set(pooled) == {"cpu"}


def test_a_mask_without_a_picture_is_refused(x):
    edit = ConceptEdit(random_sae(), CONCEPTS, random_statistics(), (Erasure(0, mask=left_half(4, 6)),))
    with pytest.raises(ValueError, match="Take the mask out"):
        edit(x, SIGMA, IS_COND)


def test_paper_compat_takes_no_mask():
    with pytest.raises(ValueError, match="paper_compat.*takes no mask"):
        Erasure(0, mode=PAPER_COMPAT, mask=left_half(4, 6))
