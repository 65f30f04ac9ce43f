"""Erase Concept as Hook: only the prompts that carry it, as strongly as its keyframes say."""

import nodes
import pytest
import torch
from comfy.hooks import HookGroup
from comfy_extras.nodes_hooks import (
    CombineHooks,
    ConditioningSetProperties,
    CreateHookKeyframe,
    SetClipHooks,
    SetHookKeyframes,
)

from sae_eraser.nodes.erase.erase_concept_hook import EraseConceptHook
from with_comfyui.random_files import MID, MID_TOO, UP, write_random_sae
from with_comfyui.sampling import differs, encode, erase, sample_with, split_guidance

STEPS = 4


def hook(concept="disc", sae=MID, strength=1.0, mask=None, before=None, mode="scale") -> HookGroup:
    """The output of the node."""
    chosen = {"sae": sae, "concept": concept}
    return EraseConceptHook.execute(strength, mode, sae=chosen, mask=mask, prev_hooks=before).result[0]


def keyframes(hooks: HookGroup, *frames: tuple[float, float]) -> HookGroup:
    """Pairs of start_percent and strength_mult."""
    last = None
    for start, strength in frames:
        last = CreateHookKeyframe().create_hook_keyframe(strength, start, last)[0]
    return SetHookKeyframes().set_hook_keyframes(hooks, last)[0]


def with_hooks_set(conditioning, hooks: HookGroup, mask=None):
    return ConditioningSetProperties().set_properties(conditioning, 1.0, "default", mask=mask, hooks=hooks)[0]


@pytest.fixture
def draw(world, model, monkeypatch):
    """draw(hooks, model) -> latents with the hooks on the positive prompt. Prompts run one by one, with or without
    hooks, so that equal means equal to the bit."""
    split_guidance(monkeypatch)

    def run(hooks=None, patched=model, on="positive", **sampling):
        prompts = {"positive": encode(world.clip, "a star in neon style"), "negative": encode(world.clip, "")}
        if hooks is not None:
            prompts[on] = with_hooks_set(prompts[on], hooks)
        return sample_with(world.clip, patched, **{"steps": STEPS, **prompts, **sampling})

    return run


@pytest.mark.parametrize("sae", [MID, MID_TOO, UP])
def test_on_a_prompt_it_is_the_node_for_that_half(model, draw, sae):
    for on, branch in [("positive", "cond"), ("negative", "uncond")]:
        assert torch.equal(draw(hook(sae=sae), on=on), draw(patched=erase(model, sae=sae, branch=branch)))
    assert differs(draw(hook(sae=sae)), draw())


def test_of_two_prompts_only_the_one_that_carries_it_is_erased(world, model, draw):
    star, ring = (encode(world.clip, f"a {name} in neon style") for name in ("star", "ring"))

    def both(first, second):
        return nodes.ConditioningCombine().combine(first, second)[0]

    plain = draw(positive=both(star, ring))
    first, second = both(with_hooks_set(star, hook()), ring), both(star, with_hooks_set(ring, hook()))
    results = [
        plain,
        draw(positive=first),
        draw(positive=second),
        draw(patched=erase(model), positive=both(star, ring)),
    ]
    assert all(differs(a, b) for index, a in enumerate(results) for b in results[:index])
    hooked = both(with_hooks_set(star, hook()), with_hooks_set(ring, hook()))
    in_both = draw(patched=erase(model, branch="cond"), positive=both(star, ring))
    torch.testing.assert_close(draw(positive=hooked), in_both, rtol=1e-4, atol=1e-4)


def test_of_two_regions_only_the_one_whose_prompt_carries_it_changes_in_the_first_step(world, draw):
    """Each prompt is for one half of the picture. The two halves meet only in later steps."""
    left = torch.zeros(1, 64, 64)
    left[:, :, :32] = 1
    star, ring = (encode(world.clip, f"a {name} in neon style") for name in ("star", "ring"))

    def regions(hooks):
        both = with_hooks_set(star, hooks, left), with_hooks_set(ring, None, 1 - left)
        return nodes.ConditioningCombine().combine(*both)[0]

    plain, erased = (draw(positive=regions(hooks), steps=1, cfg=1.0) for hooks in (None, hook()))
    assert differs(erased[..., :4], plain[..., :4])
    assert torch.equal(erased[..., 4:], plain[..., 4:])


def test_keyframes_follow_the_steps(model, draw):
    plain, whole = draw(), draw(hook())
    assert torch.equal(draw(keyframes(hook(), (0.0, 0.0))), plain)
    assert torch.equal(draw(keyframes(hook(), (0.0, 1.0))), whole)
    assert torch.equal(draw(keyframes(hook(strength=0.5), (0.0, 2.0))), whole)
    first = draw(keyframes(hook(), (0.0, 1.0), (0.5, 0.0)))
    second = draw(keyframes(hook(), (0.0, 0.0), (0.5, 1.0)))
    assert torch.equal(first, draw(patched=erase(model, end=0.499, branch="cond")))
    assert torch.equal(second, draw(patched=erase(model, start=0.5, branch="cond")))
    results = [plain, whole, first, second]
    assert all(differs(a, b) for index, a in enumerate(results) for b in results[:index])


def test_a_keyframe_changes_the_strength_of_the_one_before(draw):
    weak, then_strong = ((0.0, 0.25),), ((0.0, 0.25), (0.5, 1.0))
    assert differs(draw(keyframes(hook(), *then_strong)), draw(keyframes(hook(), *weak)))


def test_one_hook_on_several_models_has_what_is_on_each(model, draw):
    own = hook()
    draw(own, erase(model, "wavy"))
    assert torch.equal(draw(own), draw(hook()))


def test_it_starts_anew_in_every_sampling(draw):
    scheduled = keyframes(hook(), (0.0, 1.0), (0.5, 0.0))
    assert torch.equal(draw(scheduled), draw(scheduled))


def test_two_prompts_may_have_keyframes_of_their_own(world, draw):
    one = hook()
    star, ring = (encode(world.clip, f"a {name} in neon style") for name in ("star", "ring"))
    never, always = keyframes(one, (0.0, 0.0)), keyframes(one, (0.0, 1.0))

    def both(first, second):
        return draw(positive=nodes.ConditioningCombine().combine(first, second)[0])

    expected = both(star, with_hooks_set(ring, one))
    assert torch.equal(both(with_hooks_set(star, never), with_hooks_set(ring, always)), expected)


def test_strength_0_is_no_hook(draw):
    nothing = hook(strength=0.0)
    assert len(nothing) == 0
    assert len(hook(strength=0.0, before=hook())) == 1
    assert torch.equal(draw(nothing), draw())


def test_without_it_the_model_draws_as_before(model, draw):
    plain = draw()
    draw(hook())
    assert torch.equal(draw(), plain)
    assert not model.wrappers.get("apply_model")


@pytest.mark.parametrize("sae", [MID, UP])
def test_with_a_node_on_the_model_it_is_one_edit_with_one_encode(model, draw, encodes, sae):
    node = erase(model, "wavy", sae)
    both = draw(hook("disc", sae), node)
    assert len(encodes) == 2 * STEPS, "cond and uncond run apart"
    expected = draw(patched=erase(node, "disc", sae, branch="cond"))
    torch.testing.assert_close(both, expected, rtol=1e-3, atol=1e-3)
    assert all(differs(both, other) for other in (draw(patched=node), draw(hook("disc", sae))))
    assert torch.equal(draw(keyframes(hook("disc", sae), (0.0, 0.0)), node), draw(patched=node))


def test_several_on_one_prompt_are_a_chain_of_nodes(model, draw):
    expected = draw(patched=erase(erase(model, "disc", branch="cond"), "wavy", branch="cond"))
    assert torch.equal(draw(hook("wavy", before=hook("disc"))), expected)
    assert torch.equal(draw(CombineHooks().combine_hooks(hook("disc"), hook("wavy"))[0]), expected)
    other = draw(patched=erase(erase(model, "disc", branch="cond"), sae=UP, branch="cond"))
    torch.testing.assert_close(draw(hook(sae=UP, before=hook("disc"))), other)


def test_it_may_come_through_the_text_encoder(world, draw):
    hooked = SetClipHooks().apply_hooks(world.clip, False, True, hook())[0]
    positive = encode(hooked, "a star in neon style")
    assert torch.equal(draw(positive=positive), draw(hook()))


def test_it_takes_a_mask(model, draw):
    left = torch.zeros(1, 64, 64)
    left[:, :, :32] = 1
    halved = draw(hook(mask=left))
    assert all(differs(halved, other) for other in (draw(), draw(hook())))
    assert torch.equal(draw(hook(mask=torch.ones(1, 3, 3))), draw(hook()))
    assert torch.equal(draw(hook(mask=1 - left, before=hook(mask=left))), draw(hook()))


def test_an_sae_for_another_model_is_refused_before_sampling(comfyui, draw):
    file = "hook_other_family.safetensors"
    write_random_sae(comfyui.base / "models" / "sae" / file, "mid_block.attentions.0", model_family="SD15")
    with pytest.raises(ValueError, match="was made for SD15 models, but this model is ShapeCanvas"):
        draw(keyframes(hook(sae=file), (0.0, 0.0)))


def test_a_negative_keyframe_is_refused(draw):
    with pytest.raises(ValueError, match="strength -1.*0 or more"):
        draw(keyframes(hook(), (0.0, -1.0)))


def test_an_unknown_concept_is_refused(comfyui, model):
    with pytest.raises(ValueError, match="no concept 'unicorn'"):
        hook("unicorn")
