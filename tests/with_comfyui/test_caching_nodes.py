"""ComfyUI's nodes that leave out steps or blocks: what is drawn beside them is erased, or sampling stops."""

import pytest
import torch
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode

from sae_eraser.nodes.hooks.block_hooks import resolve_hookpoint, with_hooks
from sae_eraser.nodes.hooks.forward_hooks import BlockHook
from with_comfyui.sampling import differs, encode, erase, with_probe
from with_comfyui.small_models import call_model
from with_comfyui.small_transformers import TEXT, small_transformer
from with_comfyui.test_erase_hook import hook, keyframes, with_hooks_set

STEPS = 6


def cached(model, node, threshold=3.0):
    """With so high a threshold it leaves out every step that it can."""
    return node.execute(model, threshold, 0.0, 1.0, False).result[0]


def in_either_order(model, node) -> list:
    return [cached(erase(model), node), erase(cached(model, node))]


def test_lazycache_reuses_what_an_erased_step_drew(model, sample):
    calls = []
    plain = with_probe(model, lambda x, options: calls.append(1))
    unerased = sample(cached(plain, LazyCacheNode), steps=STEPS)
    assert 0 < len(calls) < STEPS, "it leaves steps out"
    first, second = (sample(both, steps=STEPS) for both in in_either_order(model, LazyCacheNode))
    assert torch.equal(first, second)
    assert differs(first, unerased)
    silent = sample(erase(cached(model, LazyCacheNode), "silent"), steps=STEPS)
    assert torch.equal(silent, unerased)


@pytest.mark.parametrize("order", [0, 1], ids=["eraser first", "cache first"])
def test_lazycache_that_brings_what_was_drawn_before_erasing_began_stops_sampling(model, sample, order):
    def both(start):
        return (erase(cached(model, LazyCacheNode), start=start), cached(erase(model, start=start), LazyCacheNode))

    with pytest.raises(ValueError, match="before, when they were not.*begin with the sampling"):
        sample(both(0.3)[order], steps=STEPS)
    begun = sample(both(0.05)[order], steps=STEPS)
    assert differs(begun, sample(cached(model, LazyCacheNode), steps=STEPS))


def test_so_does_one_beside_a_hook_that_keyframes_let_begin(world, model, sample):
    star = encode(world.clip, "a star in neon style")

    def draw(*frames, patched=model):
        positive = with_hooks_set(star, keyframes(hook(), *frames)) if frames else star
        return sample(cached(patched, LazyCacheNode), steps=STEPS, positive=positive)

    for patched in (model, erase(model, "wavy")):
        for frames in ([(0.0, 0.0), (0.3, 1.0)], [(0.0, 1.0), (0.3, 0.0), (0.9, 0.5)]):
            with pytest.raises(ValueError, match="before, when they were not.*begin with the sampling"):
                draw(*frames, patched=patched)
    assert differs(draw((0.0, 0.5), (0.3, 1.0)), draw())
    assert differs(draw((0.0, 0.0), (0.05, 1.0)), draw())


@pytest.mark.parametrize("order", [0, 1], ids=["eraser first", "cache first"])
def test_easycache_that_leaves_a_step_out_stops_sampling(model, sample, order):
    plain = sample(model, steps=STEPS)
    with pytest.raises(RuntimeError, match="block mid_block.attentions.0.*did not run.*take that node out"):
        sample(in_either_order(model, EasyCacheNode)[order], steps=STEPS)
    assert torch.equal(sample(model, steps=STEPS), plain)


def test_easycache_that_leaves_nothing_out_changes_nothing(model, sample):
    erased = erase(model)
    assert torch.equal(sample(cached(erased, EasyCacheNode, threshold=0.0), steps=STEPS), sample(erased, steps=STEPS))


@pytest.mark.parametrize("skipped", [0, 1])
def test_where_skip_layer_guidance_leaves_the_hooked_block_out_sampling_stops(skipped):
    """Its extra call of the model passes by some blocks; a hook on another block acts in it."""
    model = small_transformer("Flux")
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "x": torch.randn(1, 16, 8, 8, generator=generator),
        "sigma": torch.tensor([0.9]),
        "c_crossattn": torch.randn(1, 7, TEXT, generator=generator),
        "y": torch.randn(1, TEXT, generator=generator),
    }
    guided = model.clone()
    guided.set_model_patch_replace(lambda args, extra: args, "dit", "double_block", skipped)
    hook = BlockHook(resolve_hookpoint(model, "transformer_blocks.0"), "output", lambda x, sigma, is_cond: 2 * x)
    hooked = with_hooks(guided, (hook,))
    if skipped == 0:
        with pytest.raises(RuntimeError, match="block transformer_blocks.0.*did not run"):
            call_model(hooked, **inputs)
    else:
        assert differs(call_model(hooked, **inputs), call_model(guided, **inputs))
