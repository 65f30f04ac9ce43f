"""Exchanging blocks between the two pictures of a pair."""

import comfy.model_management
import pytest
import torch

from sae_eraser.nodes.hooks.block_hooks import resolve_hookpoint
from sae_eraser.nodes.locate.exchanging import Exchange, PairSampler, partners
from sae_eraser.nodes.sample.sampling_progress import SamplingProgress
from sae_eraser.sae_ops.hookpoints import list_hookpoints
from with_comfyui.collecting import MID, SAMPLING, interrupting
from with_comfyui.sampling import differs, erase, split_guidance, with_probe
from with_comfyui.small_transformers import small_transformer

PAIRS = [("a star in neon style", "a house in neon style"), ("a ring in plain style", "a tree in plain style")]


def sample(world, model, *names: str, hooked="output", exchange=None, batch_size=2, **changed) -> torch.Tensor:
    """The originals, or what becomes of them when these hookpoints are exchanged."""
    with SamplingProgress("pairs", None) as progress:
        sampler = PairSampler(world.clip, PAIRS, [3, 4], batch_size, SAMPLING | changed, 1, progress)
        if not names:
            return sampler.originals(model)
        points = [resolve_hookpoint(model, name) for name in names]
        return sampler.exchanged(model, points, hooked, exchange or Exchange())


@pytest.fixture(scope="module")
def originals(world) -> torch.Tensor:
    return sample(world, world.model)


@pytest.mark.parametrize("hooked", ["output", "residual"])
def test_a_picture_becomes_its_partners_when_all_that_reads_the_prompt_is_exchanged(world, originals, hooked):
    names = [point.name for point in list_hookpoints(world.model.model.diffusion_model) if "attentions" in point.name]
    swapped = sample(world, world.model, *names, hooked=hooked)
    torch.testing.assert_close(swapped, partners(originals), rtol=1e-3, atol=1e-3)
    assert differs(swapped, originals)


def test_a_block_gives_what_it_did_for_the_partner_in_the_prompts_half_alone(world, originals, monkeypatch):
    """As forward hooks put on it by hand do, that keep the partners' outputs and put them in later."""
    layouts: list[list[int]] = []
    probed = with_probe(world.model, lambda x, options: layouts.append(options["cond_or_uncond"]))
    kept: list[torch.Tensor] = []

    def keep(block, args, output):
        kept.append(partners(output.chunk(2)[layouts[-1].index(0)]))

    def put_in(block, args, output):
        halves = list(output.chunk(2))
        halves[layouts[-1].index(0)] = kept.pop(0)
        return torch.cat(halves)

    for hook in (keep, put_in):
        handle = world.model.model.diffusion_model.middle_block[1].register_forward_hook(hook)
        try:
            expected = sample(world, probed)
        finally:
            handle.remove()
    swapped = sample(world, world.model, MID)
    torch.testing.assert_close(swapped, expected, rtol=1e-3, atol=1e-3)
    assert differs(swapped, originals) and differs(swapped, partners(originals))
    split_guidance(monkeypatch)
    torch.testing.assert_close(sample(world, world.model, MID), swapped, rtol=1e-3, atol=1e-3)


def test_pairs_stay_together_in_batches(world, originals):
    torch.testing.assert_close(sample(world, world.model, batch_size=1), originals, rtol=1e-3, atol=1e-3)
    whole = sample(world, world.model, MID)
    torch.testing.assert_close(sample(world, world.model, MID, batch_size=1), whole, rtol=1e-3, atol=1e-3)


def test_pairs_of_several_lengths_are_judged_as_each_is_alone(world):
    """By a model that takes prompts of one length at once; the second pair has twice as many tokens."""
    model, long = small_transformer("QwenImage"), " in neon style and" * 8
    pairs = [("a star", "a ring"), (f"a star{long}", f"a ring{long}")]

    def judged(*chosen: int) -> torch.Tensor:
        with SamplingProgress("pairs", None) as progress:
            own, seeds = [pairs[place] for place in chosen], [3 + place for place in chosen]
            sampler = PairSampler(world.clip, own, seeds, 1, SAMPLING, 1, progress)
            return torch.stack(sampler.errors(model, sampler.originals(model))).unflatten(1, (2, len(own)))

    alone = torch.cat([judged(0), judged(1)], dim=2)
    torch.testing.assert_close(judged(0, 1), alone, rtol=1e-3, atol=1e-3)


def test_nodes_before_change_what_is_exchanged_and_not_the_judge(world, model):
    erased = erase(model)
    assert differs(sample(world, erased, MID), sample(world, model, MID))
    with SamplingProgress("pairs", None) as progress:
        sampler = PairSampler(world.clip, PAIRS, [3, 4], 2, SAMPLING, 1, progress)
        pictures = sampler.originals(model)
        for plain, found in zip(*(sampler.errors(judge, pictures) for judge in (model, erased)), strict=True):
            assert torch.equal(plain, found)


def test_only_the_noise_levels_in_between_are_exchanged(world):
    levels: list[float] = []
    steps = {"steps": 4}
    unchanged = sample(
        world, with_probe(world.model, lambda x, options: levels.append(options["sigmas"][0].item())), **steps
    )
    second, nothing = Exchange(levels[1], levels[1]), Exchange(levels[1] * 0.999, levels[1] * 0.99)
    assert differs(sample(world, world.model, MID, exchange=second, **steps), unchanged)
    assert second.sigmas == [levels[1]]
    same = sample(world, world.model, MID, exchange=nothing, **steps)
    torch.testing.assert_close(same, unchanged, rtol=1e-3, atol=1e-3)
    assert nothing.sigmas == []


def test_an_interrupt_ends_the_sampling(world):
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(world, interrupting(world, at=2), batch_size=1)
