"""Masks in ComfyUI: where the activations change, in pictures, areas and tiles of every shape."""

import pytest
import torch

from sae_eraser.nodes.erase.erase_concept import EraseConcept
from sae_eraser.nodes.erase.erase_concepts import EraseConcepts
from sae_eraser.nodes.erase.steer_concept import SteerConcept
from sae_eraser.nodes.files.load_sae import LoadSAE
from sae_eraser.nodes.hooks.block_hooks import get_hooks, resolve_hookpoint, with_hooks
from sae_eraser.nodes.hooks.forward_hooks import BlockHook
from with_comfyui.random_files import MID, UP, write_random_sae
from with_comfyui.sampling import differs, encode, sample_with, split_guidance
from with_comfyui.small_transformers import small_transformer
from with_comfyui.test_guidance import one_by_one
from with_comfyui.test_tiles import TILES, in_windows, tiled

ADVANCED = {"start_percent": 0.0, "end_percent": 1.0, "branch": "both"}


def masked(model, mask, concept="disc", sae=MID, mode="scale", strength=1.0):
    """The model as Erase Concept hands it on."""
    chosen = {"sae": sae, "concept": concept}
    node = EraseConcept.execute(model=model, strength=strength, mode=mode, sae=chosen, mask=mask, **ADVANCED)
    return node.result[0]


def left_half(height=64, width=64) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    mask[:, :, : width // 2] = 1
    return mask


def changes(patched, sample, name="mid_block.attentions.0", **sampling) -> list[torch.Tensor]:
    """Where the one hook of the patched model changes something, bool [images, positions...] for every call."""
    (hook,) = get_hooks(patched)
    found = []

    def record(x, *arguments, **facts):
        after = hook.function(x, *arguments, **facts)
        found.append((after != x).any(dim=1))
        return after

    point = resolve_hookpoint(patched, hook.hookpoint.name)
    sample(with_hooks(patched, (BlockHook(point, hook.hooked, record, hook.takes_place),)), **sampling)
    return found


@pytest.mark.parametrize("size", [(16, 16), (16, 32), (32, 16)], ids=str)
@pytest.mark.parametrize("sae", [MID, UP])
def test_only_the_masked_half_of_the_activations_changes(model, sample, sae, size):
    everywhere = changes(masked(model, None, sae=sae), sample, size=size, steps=2)
    assert all(changed.any(dim=0)[:, changed.shape[2] // 2 :].any() for changed in everywhere)
    halves = changes(masked(model, left_half(), sae=sae), sample, size=size, steps=2)
    for changed in halves:
        middle = changed.shape[2] // 2
        assert changed[:, :, :middle].any()
        assert not changed[:, :, middle:].any()


@pytest.mark.parametrize("mode", ["scale", "replace"])
def test_a_white_mask_is_no_mask_and_a_black_one_no_node(model, sample, mode):
    white = torch.ones(7, 5)
    assert torch.equal(sample(masked(model, white, mode=mode)), sample(masked(model, None, mode=mode)))
    assert torch.equal(sample(masked(model, 0 * white, mode=mode)), sample(model))
    assert differs(sample(masked(model, white, mode=mode)), sample(model))


@pytest.mark.parametrize("size", [(7, 9), (5, 5), (1, 3)], ids=str)
def test_odd_sizes_take_a_mask(model, sample, size):
    latents = sample(masked(model, left_half(), "box", UP), size=size, images=2)
    assert latents.isfinite().all()
    assert differs(latents, sample(model, size=size, images=2))


def test_each_picture_of_a_batch_has_its_own_mask(model, sample, monkeypatch):
    masks = torch.cat([left_half(), 1 - left_half()])
    batch = sample(masked(model, masks), batch_index=[0, 1])
    for index in range(2):
        alone = sample(masked(model, masks[index : index + 1]), batch_index=[index])
        torch.testing.assert_close(batch[index], alone[0], rtol=1e-3, atol=1e-3)
    swapped = sample(masked(model, masks.flip(0)), batch_index=[0, 1])
    assert all(differs(a, b) for a, b in zip(batch, swapped, strict=True))
    split_guidance(monkeypatch)
    torch.testing.assert_close(sample(masked(model, masks), batch_index=[0, 1]), batch, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("masks, images", [(3, 2), (2, 1)])
def test_another_number_of_masks_than_of_pictures_is_refused(model, sample, masks, images):
    with pytest.raises(ValueError, match=f"batch of {masks}, but {images} pictures"):
        sample(masked(model, torch.ones(masks, 8, 8)), images=images)


@pytest.mark.parametrize("mask", [torch.ones(1, 1, 8, 8), torch.full((8, 8), float("nan")), torch.ones(0, 8, 8)])
def test_what_is_no_mask_is_refused(model, mask):
    with pytest.raises(ValueError, match="This mask.*cannot be used"):
        masked(model, mask)


def test_chained_nodes_have_masks_of_their_own_in_one_edit(model, sample):
    left, right = left_half(), 1 - left_half()
    both = masked(masked(model, left), right)
    assert len(get_hooks(both)) == 1
    assert torch.equal(sample(both), sample(masked(model, None)))
    two = masked(masked(model, left), None, "wavy")
    assert differs(sample(two), sample(masked(model, left)))
    assert differs(sample(two), sample(masked(masked(model, None), None, "wavy")))


def test_the_other_nodes_take_masks(model, sample):
    sae = LoadSAE.execute(MID).result[0]
    several = EraseConcepts.execute(model, sae, "disc, wavy", mode="scale", mask=left_half(), **ADVANCED).result[0]
    chain = masked(masked(model, left_half()), left_half(), "wavy")
    assert torch.equal(sample(several), sample(chain))
    chosen = {"sae": MID, "concept": "silent"}
    steered = SteerConcept.execute(model, 20.0, sae=chosen, mask=left_half(), **ADVANCED).result[0]
    for changed in changes(steered, sample, steps=2):
        middle = changed.shape[2] // 2
        assert changed[:, :, :middle].all() and not changed[:, :, middle:].any()


def test_a_prompt_for_an_area_has_that_part_of_the_mask(comfyui, world, model, sample):
    """A prompt for the right half of the picture, where nothing is masked, is not edited."""
    whole, part = (encode(world.clip, f"a {name} in neon style") for name in ("star", "ring"))
    part = comfyui.nodes.ConditioningSetArea().append(part, width=64, height=128, x=64, y=0, strength=1.0)[0]
    positive = comfyui.nodes.ConditioningCombine().combine(whole, part)[0]
    by_width = {}
    for changed in changes(masked(model, left_half()), sample, positive=positive, cfg=1.0, steps=2, size=(16, 16)):
        by_width[changed.shape[2]] = changed.any(dim=(0, 1))
    widths = sorted(by_width)
    assert len(widths) == 2 and not by_width[widths[0]].any()
    middle = widths[1] // 2
    assert by_width[widths[1]][:middle].any() and not by_width[widths[1]][middle:].any()


def test_of_an_area_that_reaches_beyond_the_picture_the_part_within_counts(comfyui, world, model, sample):
    """ComfyUI cuts it off, as when a workflow's pictures were made smaller."""
    star = encode(world.clip, "a star in neon style")
    beyond, within = (
        comfyui.nodes.ConditioningSetArea().append(star, width=width, height=128, x=64, y=0, strength=1.0)[0]
        for width in (128, 64)
    )
    erased = masked(model, left_half().flip(2))
    expected = sample(erased, positive=within, size=(16, 16))
    assert differs(expected, sample(model, positive=within, size=(16, 16)))
    assert torch.equal(sample(erased, positive=beyond, size=(16, 16)), expected)


def test_tiles_whose_place_is_unknown_are_refused(model, sample):
    with pytest.raises(RuntimeError, match="so a mask cannot be laid on it.*tiles"):
        sample(tiled(masked(model, left_half()), TILES, []), steps=2, size=(11, 13))


@pytest.mark.parametrize(
    "family, name",
    [("SD3", "transformer_blocks.1"), ("Flux", "single_transformer_blocks.0"), ("WAN21_T2V", "blocks.0")],
)
def test_tokens_of_transformers_are_masked_as_the_maps_they_are(comfyui, world, family, name):
    transformer = small_transformer(family)
    file, width = f"masked_{family}.safetensors", resolve_hookpoint(transformer, name).width
    write_random_sae(comfyui.base / "models" / "sae" / file, name, seed=1, d=width, model_family=family)

    def sample(model):
        return sample_with(world.clip, model, size=(6, 10), steps=2)

    for changed in changes(masked(transformer, left_half(60, 100), sae=file, mode="ablate"), sample):
        assert changed.shape[-2:] == (3, 5)
        assert changed[..., :3].any() and not changed[..., 3:].any()


def test_blocks_that_run_for_one_picture_of_a_call_take_no_mask(model, sample):
    with pytest.raises(RuntimeError, match="run for 1 pictures at once.*called for 2.*or take the mask out"):
        sample(one_by_one(masked(model, left_half())))


def test_context_windows_of_a_picture_take_no_mask(model, sample):
    """The mask would lie in every window as it should in the picture; windows of a batch are whole pictures."""
    with pytest.raises(RuntimeError, match="Context windows cut the picture.*take the mask out"):
        sample(in_windows(masked(model, left_half()), 8, dim=3), size=(8, 16))
    assert differs(sample(in_windows(masked(model, left_half()), 2, dim=0), images=4), sample(model, images=4))


@pytest.mark.parametrize("causal", [False, True])
def test_context_windows_of_a_batch_have_the_masks_of_their_pictures(model, sample, causal):
    left, right = left_half(), 1 - left_half()
    each = torch.cat([left, right, right, left])
    drawn = sample(in_windows(masked(model, each), 2, dim=0, causal=causal), images=4)
    for picture, mask in enumerate((left, right, right, left)):
        expected = sample(in_windows(masked(model, mask), 2, dim=0, causal=causal), images=4)[picture]
        assert torch.equal(drawn[picture], expected)
    assert differs(drawn[1], sample(in_windows(masked(model, left), 2, dim=0, causal=causal), images=4)[1])
    with pytest.raises(ValueError, match="batch of 2, but 4 pictures"):
        sample(in_windows(masked(model, each[:2]), 2, dim=0, causal=causal), images=4)
