"""A cache knows which nodes its model comes from."""

import dataclasses

import pytest
import torch

from sae_eraser.nodes.collect.model_source import find_source
from sae_eraser.training.cache.manifest import CachedImage, CacheError, CacheSettings
from sae_eraser.training.cache.writer import CacheWriter

BOTH = ("model", "clip")


def workflow(*loras: str, first: int = 4, seed: int = 0) -> dict:
    """A checkpoint, LoRAs one after another, and two nodes that take their model; numbered from `first` on."""
    checkpoint = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}}
    prompt, last, clip = {str(first): checkpoint}, [str(first), 0], [str(first), 1]
    for place, lora in enumerate(loras, first + 1):
        inputs = {"strength_model": 0.5, "lora_name": lora, "model": last, "clip": clip}
        prompt[str(place)] = {"class_type": "LoraLoader", "inputs": inputs}
        last, clip = [str(place), 0], [str(place), 1]
    collect = {"model": last, "clip": clip, "prompts": "x", "first_seed": seed}
    prompt["collect"] = {"class_type": "SAEEraser_CollectActivations", "inputs": collect}
    prompt["sampler"] = {"class_type": "KSampler", "inputs": {"model": last, "seed": seed}}
    return prompt


def test_every_node_before_the_model_is_a_line():
    assert find_source(workflow("b.safetensors"), "collect", BOTH) == [
        '#1 CheckpointLoaderSimple(ckpt_name="a.safetensors")',
        '#2 LoraLoader(clip=#1[1], lora_name="b.safetensors", model=#1[0], strength_model=0.5)',
        "clip=#2[1], model=#2[0]",
    ]


def test_numbers_of_nodes_and_what_does_not_lead_to_the_model_do_not_matter():
    assert find_source(workflow("b", first=9, seed=7), "collect", BOTH) == find_source(workflow("b"), "collect", BOTH)


def test_of_a_text_encoder_the_rest_of_the_model_does_not_matter():
    prompt = workflow()
    prompt["unet"] = {"class_type": "UNETLoader", "inputs": {"unet_name": "c.safetensors"}}
    prompt["collect"]["inputs"]["model"] = ["unet", 0]
    assert find_source(prompt, "collect", ("clip",)) == find_source(workflow(), "collect", ("clip",))
    assert find_source(prompt, "collect", BOTH) != find_source(workflow(), "collect", BOTH)


def test_a_long_chain_is_as_long_as_it_is():
    assert len(find_source(workflow(*"b" * 40), "collect", BOTH)) == 42


def test_a_node_that_another_made_while_it_ran_has_no_source():
    assert find_source(workflow(), "collect.0.1", BOTH) == []


SETTINGS = CacheSettings("SD15", {"mid_block": 8}, "output", {}, [CachedImage("a star", 0, {})])


def begun(folder, source: list[str]) -> CacheWriter:
    return CacheWriter(folder, dataclasses.replace(SETTINGS, source=source))


@pytest.fixture
def folder(tmp_path, zeros):
    begun(tmp_path, find_source(workflow(), "collect", BOTH)).write_shard(0, *zeros)
    return tmp_path


@pytest.fixture
def zeros():
    return {"mid_block": torch.zeros(1, 1, 4, 8)}, torch.ones(1, 1)


def test_a_cache_goes_on_with_its_own_model_alone(folder):
    assert begun(folder, find_source(workflow(first=30), "collect", BOTH)).missing() == []
    with pytest.raises(CacheError, match=r"another model. It has: clip=#1\[1\].*Now there is: #2 LoraLoader"):
        begun(folder, find_source(workflow("b"), "collect", BOTH))


def test_where_the_model_is_from_may_be_unknown(folder, tmp_path, zeros):
    assert begun(folder, []).missing() == []
    begun(tmp_path / "unknown", []).write_shard(0, *zeros)
    assert begun(tmp_path / "unknown", find_source(workflow(), "collect", BOTH)).missing() == []
