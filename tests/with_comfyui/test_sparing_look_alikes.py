"""Concepts that a picture must show enough of before they are erased in it: once is enough for the whole run."""

from dataclasses import replace

import nodes
import pytest
import torch
from comfy.patcher_extension import WrappersMP

from sae_eraser.nodes.erase.erase_concept_hook import EraseConceptHook
from sae_eraser.nodes.hooks.run_memory import MEMORY, CallMemory, RunMemory, call_memory
from sae_eraser.sae_ops.sae_file import load_sae, save_sae
from with_comfyui.random_files import MID, UP
from with_comfyui.sampling import differs, encode, erase, sample_with, split_guidance
from with_comfyui.test_erase_hook import keyframes, with_hooks_set
from with_comfyui.test_tiles import in_windows

NEVER = 1e6
"""A mean that no picture reaches."""


@pytest.fixture
def spared(model, comfyui):
    """spared(bar, of) -> an SAE as another, of which this mean shows a concept in the first step, and none later."""
    folder = comfyui.base / "models" / "sae"

    def write(bar: float, of: str = MID) -> str:
        sae, header, statistics = load_sae(folder / of)
        detection = torch.zeros_like(statistics.overall)
        detection[-1], detection[:-1] = bar, NEVER  # sigma 10, and below; the first step is at 14
        concepts = tuple(replace(concept, first_detects=True) for concept in header.concepts)
        name = f"spared_{bar:g}_{of}"
        statistics = replace(statistics, detection=detection, positions=torch.tensor(16.0))
        save_sae(folder / name, sae, replace(header, concepts=concepts), statistics)
        return name

    return write


@pytest.mark.parametrize("of", [MID, UP])
@pytest.mark.parametrize("branch", ["both", "cond"])
def test_what_was_found_in_the_first_step_is_erased_to_the_last(model, sample, spared, of, branch):
    erased = sample(erase(model, sae=spared(0.0, of), branch=branch), steps=5)
    assert torch.equal(erased, sample(erase(model, sae=of, branch=branch), steps=5))
    assert differs(erased, sample(erase(model, sae=of, branch=branch, end=0.1), steps=5))


def test_what_was_not_found_is_left_alone_and_so_is_what_shows_too_late(model, sample, spared):
    plain = sample(model, steps=5)
    assert torch.equal(sample(erase(model, sae=spared(NEVER)), steps=5), plain)
    assert torch.equal(sample(erase(model, sae=spared(0.0), start=0.3), steps=5), plain)


def test_every_run_finds_it_anew(model, sample, spared):
    """What the first run has found does not count in the second, whose steps are those in which nothing is found."""
    name = spared(0.0)
    erased, late = erase(model, sae=name), erase(model, sae=name, start=0.3)
    whole = sample(erased, steps=5)
    assert torch.equal(sample(late, steps=5), sample(model, steps=5)) and torch.equal(sample(erased, steps=5), whole)
    assert torch.equal(sample(erased, steps=5, denoise=0.5), sample(model, steps=5, denoise=0.5))


def test_of_a_batch_those_pictures_are_erased_that_have_shown_it(model, sample, spared):
    """A bar that some of eight pictures reach in the first step, in which all of them are noise."""
    erased, every = (erase(model, sae=sae, branch="cond") for sae in (spared(14.0), MID))
    settings = {"steps": 4, "batch_index": list(range(8))}
    batch, plain, as_ever = (sample(patched, **settings) for patched in (erased, model, every))
    found = [differs(own, before) for own, before in zip(batch, plain, strict=True)]
    assert 1 < sum(found) < 7
    for place, was_found in enumerate(found):
        expected = (as_ever if was_found else plain)[place]
        torch.testing.assert_close(batch[place], expected, rtol=1e-3, atol=1e-3)
        alone = sample(erased, steps=4, batch_index=[place])[0]
        torch.testing.assert_close(alone, expected, rtol=1e-3, atol=1e-3)


def test_it_does_not_matter_whether_prompts_run_together_or_one_by_one(model, sample, spared, monkeypatch):
    erased = erase(model, sae=spared(0.0))
    together = sample(erased, steps=4, images=2)
    split_guidance(monkeypatch)
    torch.testing.assert_close(sample(erased, steps=4, images=2), together, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("on, branch", [("positive", "cond"), ("negative", "uncond")])
def test_a_hook_finds_it_as_the_node_does(world, model, spared, monkeypatch, on, branch):
    split_guidance(monkeypatch)
    chosen = {"sae": spared(0.0), "concept": "disc"}
    hooks = EraseConceptHook.execute(1.0, "scale", sae=chosen).result[0]
    prompts = {"positive": encode(world.clip, "a star in neon style"), "negative": encode(world.clip, "")}
    by_node = sample_with(world.clip, erase(model, sae=chosen["sae"], branch=branch), steps=4, **prompts)
    prompts[on] = with_hooks_set(prompts[on], hooks)
    assert torch.equal(sample_with(world.clip, model, steps=4, **prompts), by_node)
    assert differs(by_node, sample_with(world.clip, model, steps=4))


def test_nothing_is_spared_where_pictures_cannot_be_told(model, sample, spared):
    """A node that calls the model without saying for which prompts."""

    def without_prompts(executor, x, *args):
        return executor(x, *({**own, "uuids": []} if isinstance(own, dict) else own for own in args))

    def called(patched):
        clone = patched.clone()
        clone.wrappers = {WrappersMP.APPLY_MODEL: {"test": [without_prompts]}}
        for kind, keys in patched.wrappers.items():
            clone.wrappers.setdefault(kind, {}).update(keys)
        return clone

    erased = sample(called(erase(model, sae=spared(NEVER))), steps=3)
    assert torch.equal(erased, sample(erase(model, sae=MID), steps=3))


def remembered(run: RunMemory, *chunks: str, pictures: int) -> torch.Tensor:
    return CallMemory(run, chunks).recall("it", pictures, 1, torch.device("cpu"))[:, 0]


def test_each_prompt_has_its_own_pictures_wherever_it_comes_in_a_call():
    run = RunMemory()
    CallMemory(run, ("a", "b")).keep("it", torch.tensor([[True], [False], [False], [True]]))
    assert remembered(run, "b", "a", pictures=4).tolist() == [False, True, True, False]
    assert remembered(run, "a", pictures=2).tolist() == [True, False]
    assert remembered(run, "c", "a", pictures=4).tolist() == [False, False, True, False]
    assert not CallMemory(run, ("a",)).recall("another", 2, 1, torch.device("cpu")).any()


def test_a_prompt_that_comes_twice_in_a_call_has_found_what_either_has():
    run = RunMemory()
    CallMemory(run, ("a", "a")).keep("it", torch.tensor([[True], [False], [False], [True]]))
    assert remembered(run, "a", pictures=2).all()


def test_where_a_prompt_has_another_number_of_pictures_all_of_them_count_as_found():
    run = RunMemory()
    CallMemory(run, ("a",)).keep("it", torch.tensor([[False], [False]]))
    assert remembered(run, "a", pictures=3).all() and remembered(run, "a", "b", pictures=3).all()
    assert remembered(run, "a", "b", pictures=6).tolist() == [True] * 3 + [False] * 3
    assert remembered(None, "a", pictures=2).all()


def test_windows_of_a_batch_have_some_of_its_pictures():
    class Window:
        dim, total_frames = 0, 4

        def __init__(self, *index_list: int):
            self.index_list = index_list

    run = RunMemory()

    def window(*pictures: int) -> CallMemory:
        noted = {"uuids": ["a"], "cond_or_uncond": [0], "context_window": Window(*pictures), MEMORY: run}
        return call_memory(noted)

    def found(*pictures: int) -> list[bool]:
        return window(*pictures).recall("it", len(pictures), 1, torch.device("cpu"))[:, 0].tolist()

    window(0, 1).keep("it", torch.tensor([[False], [True]]))
    assert found(1, 2) == [True, False] and found(3, 1, 0) == [False, True, False]
    window(1, 3).keep("it", torch.tensor([[True], [True]]))
    assert found(0, 1, 2, 3) == [False, True, False, True]
    assert window(0, 2).recall("it", 3, 1, torch.device("cpu")).all()  # another node has added one


@pytest.mark.parametrize("dim, sizes", [(0, {"images": 6}), (3, {"size": (8, 24)})])
@pytest.mark.parametrize("schedule", ["standard_uniform", "looped_uniform"])
def test_windows_may_be_others_in_every_step(model, sample, spared, dim, sizes, schedule):
    def windows(patched):
        return sample(in_windows(patched, 4 if dim == 0 else 12, dim, schedule=schedule), steps=5, **sizes)

    erased = windows(erase(model, sae=spared(0.0)))
    assert torch.equal(erased, windows(erase(model, sae=MID))) and differs(erased, windows(model))


@pytest.mark.parametrize("branch", ["cond", "uncond"])
def test_halves_of_guidance_find_it_by_themselves_where_a_prompt_is_for_an_area(world, model, spared, branch):
    """ComfyUI gives the other half a copy of that prompt."""
    part = nodes.ConditioningSetArea().append(encode(world.clip, "a ring"), 32, 64, 0, 0, 1.0)[0]
    prompts = {"positive": part + encode(world.clip, "a star in neon style")}
    plain, erased, expected = (
        sample_with(world.clip, patched, steps=5, **prompts)
        for patched in (model, *(erase(model, sae=sae, branch=branch) for sae in (spared(0.0), MID)))
    )
    assert torch.equal(erased, expected) and differs(erased, plain)


def test_it_stays_found_when_another_concept_joins(world, model, spared):
    """By a hook, whose own concept no picture shows any more when it begins."""
    sae = spared(0.0)
    hooks = EraseConceptHook.execute(1.0, "scale", sae={"sae": sae, "concept": "box"}).result[0]
    late = keyframes(hooks, (0.0, 0.0), (0.3, 1.0))
    hooked = {"positive": with_hooks_set(encode(world.clip, "a star in neon style"), late)}
    erased = sample_with(world.clip, erase(model, sae=sae), steps=5, **hooked)
    alone = sample_with(world.clip, erase(model, sae=MID), steps=5)
    torch.testing.assert_close(erased, alone, rtol=1e-3, atol=1e-3)


def test_one_part_of_the_sampling_finds_it_for_the_next(model, sample, spared):
    def in_parts(sae):
        return sample(erase(erase(model, sae=sae, end=0.3), sae=sae, start=0.3, strength=2.0), steps=5)

    found = in_parts(spared(0.0))
    assert torch.equal(found, in_parts(MID)) and differs(found, sample(erase(model, sae=MID, end=0.3), steps=5))
