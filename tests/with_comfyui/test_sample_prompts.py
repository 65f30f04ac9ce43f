"""Sample Prompts: a batch in which every picture is the one that its prompt and seed give alone."""

import json

import torch

from sae_eraser.nodes.sample.sample_prompts import SamplePrompts
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
