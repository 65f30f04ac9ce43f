"""Sample Prompts: a batch in which every picture is the one that its prompt and seed give alone."""

import json

import comfy.utils
import torch
from comfy_extras.nodes_hooks import SetClipHooks

from sae_eraser.nodes.erase.erase_concept_hook import EraseConceptHook
from sae_eraser.nodes.sample.sample_prompts import SamplePrompts
from with_comfyui.random_files import MID
from with_comfyui.sampling import encode, erase

SAMPLING = {"steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "width": 64, "height": 48}
PROMPTS = ("a star in neon style", "a ring, or: two", "")


def sample_prompts(world, model, first_seed: int) -> torch.Tensor:
    text = "\n".join(json.dumps({"prompt": prompt, "object": "star"}) for prompt in PROMPTS)
    node = SamplePrompts.execute(model=model, clip=world.clip, prompts=text, first_seed=first_seed, **SAMPLING)
    return node.result[0]["samples"]


def test_each_picture_is_that_of_ksampler_with_its_prompt_and_seed(world, model, sample):
    for changed in (model, erase(model)):
        batch = sample_prompts(world, changed, 5)
        assert batch.shape == (3, 16, 6, 8)
        for index, prompt in enumerate(PROMPTS):
            alone = sample(changed, seed=5 + index, positive=encode(world.clip, prompt), size=(6, 8))
            assert torch.allclose(batch[index : index + 1], alone, atol=2e-4)
    assert not torch.allclose(sample_prompts(world, model, 6), sample_prompts(world, model, 5), atol=0.1)


def test_long_prompts_are_drawn_as_they_are_alone(world, model, sample):
    """Of one, two and three times as many tokens as a text encoder reads at once."""
    prompts = ["a star " * words for words in (3, 20, 45)]
    text = "\n".join(json.dumps({"prompt": prompt}) for prompt in prompts)
    node = SamplePrompts.execute(model=model, clip=world.clip, prompts=text, first_seed=5, **SAMPLING)
    for index, prompt in enumerate(prompts):
        alone = sample(model, seed=5 + index, positive=encode(world.clip, prompt), size=(6, 8))
        torch.testing.assert_close(node.result[0]["samples"][index], alone[0], rtol=0, atol=2e-4)


def test_steps_are_shown_as_they_are_taken(world, model, monkeypatch):
    moves: list[tuple[int, int]] = []
    hook = lambda done, steps, preview, node_id=None: moves.append((done, steps))  # noqa: E731
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    sample_prompts(world, model, 5)
    assert (moves[0], moves[-1]) == ((1, 3), (3, 3)), "ComfyUI leaves out those that follow soon"


def test_hooks_on_the_clip_are_those_of_ksampler(world, model, sample):
    hooks = EraseConceptHook.execute(1.0, "scale", sae={"sae": MID, "concept": "disc"}).result[0]
    (clip,) = SetClipHooks().apply_hooks(world.clip, False, True, hooks)
    settings = {**SAMPLING, "prompts": '{"prompt": "a star in neon style"}', "first_seed": 5, "model": model}
    hooked, plain = (SamplePrompts.execute(clip=own, **settings).result[0]["samples"] for own in (clip, world.clip))
    alone = sample(model, seed=5, positive=encode(clip, "a star in neon style"), negative=encode(clip, ""), size=(6, 8))
    torch.testing.assert_close(hooked, alone, rtol=0, atol=2e-4)
    assert not torch.allclose(hooked, plain, atol=0.01)


def test_prompts_may_lie_in_a_file_of_the_input_folder(world, model, comfyui):
    (comfyui.base / "input" / "two.csv").write_text('prompt,object\n"a star, neon",star\na ring,ring\n')
    settings = {**SAMPLING, "first_seed": 5, "model": model, "clip": world.clip}
    of_file, written = (
        SamplePrompts.execute(prompts=prompts, **settings).result[0]["samples"]
        for prompts in ("two.csv", '{"prompt": "a star, neon"}\n{"prompt": "a ring"}')
    )
    assert torch.equal(of_file, written)
