"""Collect Activations: from labelled prompts to a cache that `sae-eraser train` reads."""

import json
from pathlib import Path

import comfy.model_management
import folder_paths
import pytest
import torch
from comfy.model_management import InterruptProcessingException

from sae_eraser.nodes import collect_activations
from sae_eraser.nodes.collect_activations import CollectActivations
from sae_eraser.nodes.prompt_batch import sample_prompts
from sae_eraser.sae_ops.file import read_header
from sae_eraser.training.cache import Cache
from sae_eraser.training.cli import main
from with_comfyui.sampling import with_probe

MID, UP = "mid_block.attentions.0", "up_blocks.0.attentions.0"
PROMPTS = "\n".join(
    json.dumps({"prompt": f"a {shape} in {style} style", "object": shape, "style": style})
    for shape in ("star", "ring")
    for style in ("neon", "plain")
)
SAMPLING = {
    "steps": 2,
    "cfg": 3.0,
    "sampler_name": "euler",
    "scheduler": "normal",
    "width": 64,
    "height": 64,
}


@pytest.fixture
def collect(world, tmp_path, monkeypatch):
    """collect(...) -> the folder of the cache; shards of three images, in an output folder of the test's own."""
    monkeypatch.setattr(collect_activations, "IMAGES_PER_SHARD", 3)
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))

    def run(name="cache", model=world.model, prompts=PROMPTS, hookpoints=f"{MID}, {UP}", seeds=2, **changed) -> Path:
        inputs = {"first_seed": 5, "batch_size": 2, "hooked": "output"} | SAMPLING | changed
        node = CollectActivations.execute(
            model=model, clip=world.clip, prompts=prompts, hookpoints=hookpoints, name=name, seeds=seeds, **inputs
        )
        return Path(node.result[0])

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_cache_holds_what_was_asked_for(collect, tmp_path):
    folder = collect()
    assert folder == tmp_path / "sae_cache" / "cache"
    cache = Cache(folder)
    assert cache.settings.model_family == "ShapeCanvas"
    assert cache.settings.hookpoints == {MID: 128, UP: 128}
    assert cache.settings.sampling == SAMPLING
    assert [(image.prompt, image.seed) for image in cache.settings.images[3:5]] == [
        ("a ring in plain style", 5),
        ("a star in neon style", 6),
    ]
    assert cache.groups() == {"object": ["star", "ring"], "style": ["neon", "plain"]}
    for hookpoint in (MID, UP):
        activations, sigmas = cache.read(hookpoint)
        assert activations.shape == (8, 2, 16, 128)
        assert activations.dtype == torch.float16
        assert activations.float().std() > 0.01
    assert sigmas.shape == (8, 2)
    assert (sigmas[:, 0] > sigmas[:, 1]).all() and (sigmas > 0).all()


def test_the_cond_half_of_the_right_block_is_read_position_by_position(collect, world):
    """Against a forward hook put on the block by hand, one image at a time."""
    read, sigmas = Cache(collect(batch_size=4)).read(MID)
    block = world.model.model.diffusion_model.middle_block[1]
    layouts, outputs = [], []
    probed = with_probe(world.model, lambda x, options: layouts.append(options["cond_or_uncond"]))
    handle = block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    sample_prompts(probed, world.clip, ["a ring in neon style"], [6], **SAMPLING)
    handle.remove()
    for step, (layout, output) in enumerate(zip(layouts, outputs, strict=True)):
        expected = output[layout.index(0)].flatten(1).T
        torch.testing.assert_close(read[6, step].float(), expected, rtol=1e-2, atol=1e-2)


def test_the_residual_is_output_minus_input(collect, world):
    output, residual = (Cache(collect(hooked, hooked=hooked)).read(MID)[0].float() for hooked in ("output", "residual"))
    inputs = []
    block = world.model.model.diffusion_model.middle_block[1]
    handle = block.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    sample_prompts(world.model, world.clip, ["a star in neon style"], [5], **(SAMPLING | {"cfg": 1.0}))
    handle.remove()
    first = inputs[0][0].flatten(1).T
    torch.testing.assert_close(output[0, 0] - residual[0, 0], first, rtol=2e-2, atol=2e-2)


def test_after_an_interrupt_the_same_bytes_come_out(collect, world):
    whole = contents(collect("whole"))
    calls = []

    def interrupt_at_the_fifth(x, options):
        calls.append(x)
        if len(calls) == 5:
            comfy.model_management.interrupt_current_processing()

    with pytest.raises(InterruptProcessingException):
        collect("stopped", model=with_probe(world.model, interrupt_at_the_fifth))
    folder = Path(folder_paths.get_output_directory(), "sae_cache", "stopped")
    assert 0 < sum(name.startswith("shard") for name in contents(folder)) < len(whole) - 1
    assert collect("stopped") == folder
    assert contents(folder) == whole


def test_a_finished_cache_is_not_sampled_again(collect, world):
    collect()
    calls = []
    collect(model=with_probe(world.model, lambda *arguments: calls.append(1)))
    assert not calls


def test_collecting_changes_no_pictures(collect, model, sample):
    plain = sample(model)
    collect(seeds=1)
    assert torch.equal(sample(model), plain)


def test_any_batch_size_collects_the_same(collect):
    one, four = (Cache(collect(str(size), batch_size=size)).read(UP)[0] for size in (1, 4))
    torch.testing.assert_close(one.float(), four.float(), rtol=2e-2, atol=2e-2)


def test_samplers_that_call_the_model_twice_a_step_are_cached_call_by_call(collect):
    activations, sigmas = Cache(collect(sampler_name="heun", steps=3, seeds=1)).read(MID)
    assert activations.shape[1] == sigmas.shape[1] == 5  # the last of three steps needs one call
    assert (sigmas == sigmas[:1]).all()


def test_oblong_pictures_can_be_collected(collect):
    assert Cache(collect(width=72, height=56, seeds=1)).read(MID)[0].shape == (4, 2, 20, 128)


def test_other_settings_under_the_same_name_are_refused(collect):
    before = contents(collect())
    with pytest.raises(ValueError, match="other settings.*another name"):
        collect(steps=3)
    assert contents(collect()) == before


@pytest.mark.parametrize("name", ["..", "../x", "/tmp/x", "a/b", "", " ", "."])
def test_a_name_that_leads_out_of_the_folder_is_refused(collect, tmp_path, name):
    with pytest.raises(ValueError, match="no usable name"):
        collect(name)
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"hookpoints": "up_blocks.7.attentions.0"}, "no hookpoint 'up_blocks.7.attentions.0'.*mid_block"),
        ({"hookpoints": " , "}, "No hookpoint is named"),
        ({"prompts": ""}, "no prompts"),
        ({"prompts": "missing.jsonl"}, "missing.jsonl is not in ComfyUI's input folder"),
        ({"prompts": "../../etc/prompts.csv"}, "not in ComfyUI's input folder"),
    ],
)
def test_what_cannot_be_collected_is_refused(collect, tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        collect(**changed)
    assert not list(tmp_path.rglob("manifest.json"))


def test_prompts_are_read_from_a_file_in_the_input_folder(collect):
    folder = Path(folder_paths.get_input_directory())
    folder.mkdir(exist_ok=True)
    (folder / "prompts.csv").write_text("prompt,object\na star,star\na ring,ring\n")
    assert Cache(collect(prompts="prompts.csv", seeds=1)).groups() == {"object": ["star", "ring"]}


def test_the_command_line_trains_on_the_cache(collect, tmp_path):
    folder = collect(seeds=12, batch_size=24)
    out = tmp_path / "sae.safetensors"
    fast = ["--latents", "32", "--k", "4", "--unsupervised-steps", "3", "--supervised-steps", "3"]
    assert main(["train", str(folder), "--hookpoint", UP, "--out", str(out), *fast]) == 0
    header = read_header(out)
    assert (header.hookpoint, header.model_family, header.autoencoder.d_in) == (UP, "ShapeCanvas", 128)
    assert [concept.name for concept in header.concepts] == ["star", "ring", "neon", "plain"]
