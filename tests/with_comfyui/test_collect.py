"""Collect Activations: from labelled prompts to a cache that `sae-eraser train` reads."""

import itertools
import json
import shutil
from pathlib import Path

import folder_paths
import pytest
import torch
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale

from sae_eraser.nodes.collect import cache_filling, collect_activations
from sae_eraser.nodes.collect.collect_activations import CollectActivations
from sae_eraser.nodes.even_spread import spread
from sae_eraser.nodes.sample.prompt_batch import sample_prompts
from sae_eraser.sae_ops.sae_file import read_header
from sae_eraser.training.cache.reader import Cache
from sae_eraser.training.cache.writer import CacheWriter
from sae_eraser.training.cli import main
from with_comfyui.collecting import KEEP, MID, PROMPTS, SAMPLING, UP, activations, collector, sigmas
from with_comfyui.sampling import split_guidance, with_probe

TEXT = "text_encoder.text_model.encoder.layers.0"


@pytest.fixture
def collect(world, tmp_path, monkeypatch):
    return collector(world, tmp_path, monkeypatch)


def test_a_cache_holds_what_was_asked_for(collect, tmp_path):
    folder = collect()
    assert folder == tmp_path / "sae_cache" / "cache"
    cache = Cache(folder)
    assert cache.settings.model_family == "ShapeCanvas"
    assert cache.settings.hookpoints == {MID: 128, UP: 128}
    assert cache.settings.sampling | {"storage": cache.settings.storage} == SAMPLING | KEEP
    assert (cache.settings.images_per_shard, cache.shards) == (3, [0, 1, 2])
    assert [(image.prompt, image.seed) for image in cache.settings.images[3:5]] == [
        ("a ring in plain style", 5),
        ("a star in neon style", 6),
    ]
    assert cache.groups() == {"object": ["star", "ring"], "style": ["neon", "plain"]}
    for hookpoint in (MID, UP):
        read = activations(folder, hookpoint)
        assert read.shape == (8, 2, 16, 128)
        assert read.std() > 0.01
    levels = sigmas(folder)
    assert levels.shape == (8, 2)
    assert (levels[:, 0] > levels[:, 1]).all() and (levels > 0).all()


def watch(world, prompt: str, seed: int, **sampling) -> tuple[list[list[int]], list[torch.Tensor], list[torch.Tensor]]:
    """cond_or_uncond, inputs and outputs of the middle block at every call, by a forward hook put on it by hand."""
    block = world.model.model.diffusion_model.middle_block[1]
    layouts, inputs, outputs = [], [], []

    def note(module, args, output):
        inputs.append(args[0].cpu())
        outputs.append(output.cpu())

    probed = with_probe(world.model, lambda x, options: layouts.append(options["cond_or_uncond"]))
    handle = block.register_forward_hook(note)
    sample_prompts(probed, world.clip, [prompt], [seed], **(SAMPLING | sampling))
    handle.remove()
    return layouts, inputs, outputs


def rows(output: torch.Tensor) -> torch.Tensor:
    """[d, height, width] -> [positions, d]."""
    return output.flatten(1).T


@pytest.mark.parametrize("branch, halves", [("cond", (0,)), ("both", (0, 1))])
def test_the_right_half_of_the_right_block_is_read_position_by_position(collect, world, branch, halves):
    read = activations(collect(batch_size=4, branch=branch), MID)[6]
    layouts, _, outputs = watch(world, "a ring in neon style", 6)
    expected = [
        rows(output[layout.index(half)]) for layout, output in zip(layouts, outputs, strict=True) for half in halves
    ]
    torch.testing.assert_close(read, torch.stack(expected), rtol=1e-2, atol=1e-2)


def test_the_residual_is_output_minus_input(collect, world):
    read = activations(collect(hooked="residual", cfg=1.0), MID)[0]
    _, inputs, outputs = watch(world, "a star in neon style", 5, cfg=1.0)
    expected = [rows(output[0] - before[0]) for before, output in zip(inputs, outputs, strict=True)]
    torch.testing.assert_close(read, torch.stack(expected), rtol=1e-2, atol=1e-2)


def test_halves_that_are_called_one_after_the_other_are_collected_alike(collect, monkeypatch):
    together = activations(collect("together", branch="both"), MID)
    split_guidance(monkeypatch)
    apart = activations(collect("apart", branch="both"), MID)
    torch.testing.assert_close(apart, together, rtol=1e-2, atol=1e-2)


def test_both_halves_alternate_and_share_noise_levels(collect):
    both, cond = collect("both", branch="both", batch_size=1), collect("cond", batch_size=1)
    read = activations(both, UP)
    assert read.shape == (8, 4, 16, 128)
    assert torch.equal(read[:, 0::2], activations(cond, UP))
    assert not torch.allclose(read[:, 1::2], read[:, 0::2], atol=0.05)
    assert torch.equal(sigmas(both), sigmas(cond).repeat_interleave(2, dim=1))


def test_guidance_of_one_has_no_second_half(collect, tmp_path):
    with pytest.raises(ValueError, match="no two halves to keep. Set cfg above 1, or branch to cond"):
        collect(cfg=1.0, branch="both")
    assert not list(tmp_path.rglob("*.json"))
    assert activations(collect(cfg=1.0), MID).shape == (8, 2, 16, 128)


def test_calls_are_kept_spread_evenly_from_first_to_last(collect):
    all_calls, kept = (collect(str(keep), steps=8, seeds=1, batch_size=1, keep_steps=keep) for keep in (0, 3))
    assert torch.equal(activations(kept, MID), activations(all_calls, MID)[:, [0, 3, 7]])
    assert torch.equal(sigmas(kept), sigmas(all_calls)[:, [0, 3, 7]])


@pytest.mark.parametrize(
    "calls, keep, expected",
    [
        (5, 0, [0, 1, 2, 3, 4]),
        (5, 5, [0, 1, 2, 3, 4]),
        (5, 9, [0, 1, 2, 3, 4]),
        (25, 2, [0, 24]),
        (25, 4, [0, 8, 16, 24]),
        (5, 1, [2]),
        (0, 3, []),
    ],
)
def test_which_calls_are_kept(calls, keep, expected):
    assert spread(calls, keep) == expected


def test_only_noise_levels_in_between_are_kept(collect):
    same = {"steps": 8, "seeds": 1, "batch_size": 1}
    all_calls = collect("all", **same)
    levels = sigmas(all_calls)[0]
    limits = {"sigma_min": (levels[5] * 0.999).item(), "sigma_max": (levels[2] * 1.001).item()}
    kept = collect("kept", branch="both", **same, **limits)
    assert torch.equal(sigmas(kept)[0, ::2], levels[2:6])
    assert torch.equal(activations(kept, MID)[:, ::2], activations(all_calls, MID)[:, 2:6])
    fewer = collect("fewer", keep_steps=2, **same, **limits)
    assert torch.equal(sigmas(fewer)[0], levels[[2, 5]])


def test_a_range_without_calls_is_refused_before_anything_is_written(collect, tmp_path):
    with pytest.raises(ValueError, match=r"No call .* between sigma_min and sigma_max; they go from [1-9].* down to"):
        collect(sigma_min=100.0)
    assert not list(tmp_path.rglob("*.json"))


def places(kept: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """The positions of `whole` [positions, d] whose vectors are the rows of `kept`."""
    return (kept[:, None] == whole).all(dim=2).int().argmax(dim=1)


def test_positions_are_drawn_for_every_picture_and_call(collect):
    hookpoints = f"{MID}, {UP}, down_blocks.0.attentions.0"
    whole = collect("whole", hookpoints=hookpoints, branch="both", batch_size=1)
    kept = collect("kept", hookpoints=hookpoints, branch="both", batch_size=1, keep_positions=5)
    drawn = {}
    for hookpoint in (MID, UP):
        read, source = activations(kept, hookpoint), activations(whole, hookpoint)
        assert read.shape == (8, 4, 5, 128)
        drawn[hookpoint] = torch.stack(
            [torch.stack([places(read[i, m], source[i, m]) for m in range(4)]) for i in range(8)]
        )
        taken = torch.take_along_dim(source, drawn[hookpoint][..., None], dim=2)
        assert torch.equal(read, taken)
    assert torch.equal(drawn[MID], drawn[UP])
    assert (drawn[MID].diff(dim=2) > 0).all()
    assert torch.equal(drawn[MID][:, 0::2], drawn[MID][:, 1::2])  # both halves of a call at the same positions
    assert len({tuple(each.tolist()) for each in drawn[MID][:, 0::2].flatten(0, 1)}) > 12  # of 16 calls
    assert set(drawn[MID].flatten().tolist()) == set(range(16))
    assert activations(kept, "down_blocks.0.attentions.0").shape == (8, 4, 5, 64)
    for cache in (whole, kept):
        assert [Cache(cache).map_positions(name) for name in hookpoints.split(", ")] == [16, 16, 64]


def test_more_positions_than_there_are_are_all(collect):
    for keep in (16, 17):
        cache = collect(f"{keep} of 16", keep_positions=keep)
        assert activations(cache, MID).shape[2] == Cache(cache).map_positions(MID) == 16


@pytest.mark.parametrize("storage, error", [("bf16", 4e-3), ("int8", 5e-3)])
def test_other_storages_hold_the_same(collect, storage, error):
    exact, coarse = (activations(collect(name, storage=name, batch_size=1), UP) for name in ("fp16", storage))
    assert not torch.equal(coarse, exact)
    assert ((coarse - exact).abs() <= error * exact.abs().amax(dim=-1, keepdim=True)).all()


def test_collecting_changes_no_pictures(collect, model, sample):
    plain = sample(model)
    collect(seeds=1)
    assert torch.equal(sample(model), plain)


def test_any_batch_size_collects_the_same(collect):
    one, four = (activations(collect(str(size), batch_size=size), UP) for size in (1, 4))
    torch.testing.assert_close(one, four, rtol=2e-2, atol=2e-2)


def test_samplers_that_call_the_model_twice_a_step_are_cached_call_by_call(collect):
    folder = collect(sampler_name="heun", steps=3, seeds=1)
    assert activations(folder, MID).shape[1] == 5  # the last of three steps needs one call
    levels = sigmas(folder)
    assert levels.shape == (4, 5)
    assert (levels == levels[:1]).all()


def test_samplers_that_choose_their_own_noise_levels_are_refused(collect, monkeypatch):
    """As dpm_adaptive does; with keep_steps they have as many, but others."""

    def sample_some(model, clip, prompts, seeds, **sampling):
        return sample_prompts(model, clip, prompts, seeds, **(sampling | {"steps": next(calls)}))

    monkeypatch.setattr(collect_activations, "sample_prompts", sample_some)
    calls = iter((2, 2, 3, 2))
    with pytest.raises(ValueError, match="other noise levels for every batch.*Choose another sampler"):
        collect()
    calls = iter((3, 3, 3, 3))  # the shards that it lacks would not fit those that it has
    with pytest.raises(ValueError, match="other noise levels for every batch.*Choose another sampler"):
        collect()
    calls = iter((4, 5, 4, 6, 5))
    with pytest.raises(ValueError, match="other noise levels for every batch.*Choose another sampler"):
        collect("kept", keep_steps=3)


def test_batches_are_as_large_as_asked_for_where_pictures_take_much(collect, world, monkeypatch):
    monkeypatch.setattr(cache_filling, "SHARD_BYTES", 1)
    monkeypatch.setattr(cache_filling, "SHARD_IMAGES", 4)
    sizes = []
    folder = collect(model=with_probe(world.model, lambda x, options: sizes.append(len(x) // 2)), batch_size=3)
    assert sizes[::2] == [3, 1, 3, 1]  # two steps each
    assert Cache(folder).settings.images_per_shard == 4
    sizes.clear()
    collect("large", model=with_probe(world.model, lambda x, options: sizes.append(len(x) // 2)), batch_size=8)
    assert sizes[::2] == [8, 4]  # of the first batch, which tells how large they are, half is used


def test_maps_that_another_node_scales_for_some_steps_are_refused(collect, world, tmp_path):
    scaling = PatchModelAddDownscale.execute(world.model, 3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic").result[0]
    large = {"model": scaling, "steps": 6, "width": 128, "height": 128, "seeds": 1}
    with pytest.raises(ValueError, match="has from 16 to 64 positions .*PatchModelAddDownscale.*keep_positions to 16"):
        collect(**large)
    assert not list(tmp_path.rglob("*.json"))
    cache = collect(keep_positions=16, **large)
    assert activations(cache, MID).shape == (4, 6, 16, 128)
    assert Cache(cache).map_positions(MID) == 64


def test_what_is_complete_is_counted(collect):
    for seeds, said in ((1, "is complete: 1 picture, "), (2, "is complete: 2 pictures, ")):
        folder = collect(f"of {seeds}", hookpoints=TEXT, prompts='{"prompt": "a star"}', seeds=seeds)
        assert said in collect_activations._summary(CacheWriter(folder, Cache(folder).settings))


def test_oblong_pictures_can_be_collected(collect):
    assert activations(collect(width=72, height=56, seeds=1), MID).shape == (4, 2, 20, 128)


@pytest.mark.parametrize(
    "name",
    ["..", "../x", "/tmp/x", "a/b", "", " ", ".", "mine:x", "CON", "nul.old", "what?", "a.", 201 * "a", 67 * "星"],
)
def test_a_name_that_leads_out_of_the_folder_or_that_some_system_does_not_take_is_refused(collect, tmp_path, name):
    with pytest.raises(ValueError, match="no usable name"):
        collect(name)
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"hookpoints": "up_blocks.7.attentions.0"}, "no hookpoint 'up_blocks.7.attentions.0'.*mid_block"),
        ({"hookpoints": " , "}, "No hookpoint is named"),
        ({"hookpoints": f"{MID}, {TEXT}"}, "Collect them into two caches"),
        ({"hookpoints": TEXT, "prompts": '{"prompt": "' + "a star " * 50 + '"}'}, "longer than .*Shorten it"),
        ({"prompts": ""}, "no prompts"),
        ({"prompts": "missing.jsonl"}, "missing.jsonl is not in ComfyUI's input folder"),
        ({"prompts": "../../etc/prompts.csv"}, "not in ComfyUI's input folder"),
    ],
)
def test_what_cannot_be_collected_is_refused(collect, tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        collect(**changed)
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_layer_of_the_text_encoder_is_read_without_sampling(collect, world, monkeypatch):
    """Every prompt has one map at a noise level of 1, whose positions are its tokens; weights do not count."""
    monkeypatch.setattr(collect_activations, "sample_prompts", None)
    prompts = ["a star in neon style", "a (ring:1.5) in plain style", "a ring in plain style"]
    folder = collect(hookpoints=TEXT, seeds=1, prompts="\n".join(json.dumps({"prompt": p}) for p in prompts))
    seen = []
    layer = world.clip.cond_stage_model.clip_l.transformer.text_model.encoder.layers[0]
    handle = layer.register_forward_hook(lambda module, args, output: seen.append(output[0].cpu().clone()))
    for prompt in prompts:
        world.clip.encode(prompt)
    handle.remove()
    read = activations(folder, TEXT)
    assert read.shape == (3, 1, 32, 48) and sigmas(folder).tolist() == [[1.0]] * 3
    torch.testing.assert_close(read[:, 0], torch.stack(seen), rtol=1e-3, atol=1e-3)
    assert torch.equal(read[1], read[2]) and not torch.equal(read[0], read[1])


def test_prompts_are_read_from_a_file_in_the_input_folder(collect):
    folder = Path(folder_paths.get_input_directory())
    folder.mkdir(exist_ok=True)
    for name in ("prompts.csv", "PROMPTS.CSV"):
        (folder / name).write_text("prompt,object\na star,star\na café,café\n", encoding="utf-8-sig")
        assert Cache(collect(name, prompts=name, seeds=1)).groups() == {"object": ["star", "café"]}


def test_links_lead_to_another_disk(collect, tmp_path):
    """A cache is large, and prompts may lie beside what they were made of."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "sae_cache").mkdir()
    (tmp_path / "sae_cache" / "linked").symlink_to(tmp_path / "disk")
    (tmp_path / "all.jsonl").write_text(PROMPTS)
    link = Path(folder_paths.get_input_directory(), "linked.jsonl")
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "all.jsonl")
    assert collect("linked", prompts=link.name, seeds=1) == tmp_path / "sae_cache" / "linked"
    assert len(Cache(tmp_path / "disk").images) == 4


def test_a_hookpoint_named_twice_is_read_once(collect):
    folder = collect(hookpoints=f"{MID}, middle_block.1, unet.{MID}", seeds=1)
    assert Cache(folder).settings.hookpoints == {MID: 128}
    assert activations(folder, MID).shape == (4, 2, 16, 128)


def test_comfyui_runs_the_node_again_when_prompts_or_shards_have_changed(collect):
    inputs = {"prompts": "again.jsonl", "name": "again", "steps": 2}
    file = Path(folder_paths.get_input_directory(), "again.jsonl")
    file.parent.mkdir(exist_ok=True)
    file.write_text(PROMPTS)
    before = CollectActivations.fingerprint_inputs(**inputs)
    assert CollectActivations.fingerprint_inputs(**inputs) == before
    folder = collect("again", prompts="again.jsonl", seeds=1)
    assert CollectActivations.fingerprint_inputs(**inputs) == before
    (folder / "shard-00000.json").unlink()
    lacking = CollectActivations.fingerprint_inputs(**inputs)
    file.write_text(PROMPTS + "\n" + json.dumps({"prompt": "a tree"}))
    others = CollectActivations.fingerprint_inputs(**inputs)
    assert all(one != other for one, other in itertools.combinations((before, lacking, others), 2))
    assert before[0] == lacking[0] != others[0]


def test_comfyui_runs_the_node_again_when_the_cache_is_gone(collect):
    """It still has the result under the fingerprint from before there was a cache."""
    inputs = {"prompts": PROMPTS, "name": "gone"}
    shutil.rmtree(collect("gone", seeds=1))
    gone = CollectActivations.fingerprint_inputs(**inputs)
    assert (gone,) != (CollectActivations.fingerprint_inputs(**inputs),)  # as ComfyUI's keys hold them


def test_the_command_line_trains_on_the_cache(collect, tmp_path):
    folder = collect(seeds=12, batch_size=24)
    out = tmp_path / "sae.safetensors"
    fast = ["--latents", "32", "--k", "4", "--unsupervised-steps", "3", "--supervised-steps", "3"]
    assert main(["train", str(folder), "--hookpoint", UP, "--out", str(out), *fast]) == 0
    header = read_header(out)
    assert (header.hookpoint, header.model_family, header.autoencoder.d_in) == (UP, "ShapeCanvas", 128)
    assert [concept.name for concept in header.concepts] == ["star", "ring", "neon", "plain"]
