"""Watch Concepts with ComfyUI's samplers: it changes nothing, and knows for every latent what its sampler met."""

import copy
import gc
import weakref
from dataclasses import replace

import comfy.model_management
import comfy.samplers
import folder_paths
import nodes
import pytest
import torch
from comfy.hooks import HookGroup
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import CFGGuider, DualCFGGuider
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from comfy_extras.nodes_perpneg import PerpNegGuider
from comfy_extras.nodes_sag import SelfAttentionGuidance

from sae_eraser.nodes.erase.erasure_hook import erasure_hook
from sae_eraser.nodes.files.sae_files import open_sae
from sae_eraser.nodes.look.watching import UnwatchedLatent
from sae_eraser.sae_ops.erasure import Erasure
from sae_eraser.sae_ops.formats import no_statistics
from sae_eraser.sae_ops.sae_file import save_sae
from with_comfyui.random_files import CONCEPTS, MID, UP, write_random_sae
from with_comfyui.sampling import (
    differs,
    encode,
    erase,
    sample_by,
    sample_within_a_sampling,
    split_guidance,
    with_probe,
)
from with_comfyui.test_compile import compiled
from with_comfyui.test_tiles import in_windows
from with_comfyui.watching import watched

TERMS = sum(len(concept.latents) for concept in CONCEPTS)


@pytest.mark.parametrize("sae", [MID, UP])
def test_a_watched_model_draws_the_same_to_the_bit(model, sample, sae):
    assert torch.equal(sample(watched(model, sae)[0]), sample(model))


@pytest.mark.parametrize("sae, mode", [(MID, "scale"), (MID, "replace"), (UP, "scale")])
def test_so_does_one_that_erases_at_the_same_block(model, sample, sae, mode):
    expected = sample(erase(model, sae=sae, mode=mode))
    assert torch.equal(sample(erase(watched(model, sae)[0], sae=sae, mode=mode)), expected)
    assert torch.equal(sample(watched(erase(model, sae=sae, mode=mode), sae)[0]), expected)


def test_a_residual_is_watched(model, sample, comfyui):
    write_random_sae(
        comfyui.base / "models" / "sae" / "residual.safetensors", "mid_block.attentions.0", hooked="residual"
    )
    patched, watch = watched(model, "residual.safetensors")
    assert torch.equal(sample(patched), sample(model))
    output = watched(model, MID)
    sample(output[0])
    assert watch.runs[-1].z.any() and not torch.equal(watch.runs[-1].z, output[1].runs[-1].z)


@pytest.mark.parametrize("watch_first", [True, False])
def test_it_sees_what_the_block_gives_before_it_is_erased(model, sample, watch_first):
    patched, watch = watched(model)
    plain = watch.run_of(sample(patched)).z
    if watch_first:
        erased = erase(patched, "disc", mode="ablate")
    else:
        erased, watch = watched(erase(model, "disc", mode="ablate"))
    found = watch.run_of(sample(erased)).z
    assert plain[0, :, 0].any(), "the disc must fire for this to mean anything"
    assert torch.equal(found[0], plain[0])
    assert not torch.equal(found[1:], plain[1:])


def test_a_run_has_every_noise_level_picture_and_concept(model, sample):
    patched, watch = watched(model)
    run = watch.run_of(sample(patched, steps=4, images=3, size=(8, 12)))
    assert run.z.shape == (4, 3, TERMS, 4, 6)
    assert len(run.sigmas) == 4 and (run.sigmas.diff() < 0).all()


def test_a_sampler_that_calls_the_model_twice_at_a_level_has_it_once(model, sample):
    patched, watch = watched(model)
    sigmas = watch.run_of(sample(patched, steps=4, sampler="heun")).sigmas
    assert len(sigmas) == len(sigmas.unique()) == 4


def test_a_picture_is_watched_alike_alone_and_in_a_batch(model, sample):
    patched, watch = watched(model)
    batch = watch.run_of(sample(patched, images=3)).z
    alone = watch.run_of(sample(patched, batch_index=[2])).z
    torch.testing.assert_close(batch[:, 2:], alone, rtol=1e-3, atol=1e-3)
    assert differs(batch[:, :1], alone)


def test_only_the_half_of_the_prompt_counts_however_it_is_batched(model, world, sample, monkeypatch):
    patched, watch = watched(model)
    both = watch.run_of(sample(patched, steps=1)).z
    other = watch.run_of(sample(patched, steps=1, negative=encode(world.clip, "a ring in dots style"))).z
    torch.testing.assert_close(both, other, rtol=1e-4, atol=1e-4)
    split_guidance(monkeypatch)
    split = watch.run_of(sample(patched, steps=1)).z
    torch.testing.assert_close(both, split, rtol=1e-4, atol=1e-4)


@pytest.fixture
def drawn_sae(comfyui) -> str:
    """One that tells what is drawn, from the half of guidance without the prompt."""
    write_random_sae(comfyui.base / "models" / "sae" / "drawn.safetensors", "mid_block.attentions.0", branch="uncond")
    return "drawn.safetensors"


def test_what_is_drawn_is_seen_whatever_the_prompt_says(model, world, sample, drawn_sae, monkeypatch):
    patched, watch = watched(model, drawn_sae)
    assert torch.equal(sample(patched), sample(model))
    first, other, negative = (
        watch.run_of(sample(patched, steps=1, **{half: encode(world.clip, "a ring in dots style")} if half else {})).z
        for half in (None, "positive", "negative")
    )
    assert first.any() and torch.equal(first, other)
    assert differs(first, negative)
    split_guidance(monkeypatch)
    torch.testing.assert_close(watch.run_of(sample(patched, steps=1)).z, first, rtol=1e-4, atol=1e-4)


def test_without_guidance_there_is_no_telling_what_is_drawn(model, sample, drawn_sae):
    patched, watch = watched(model, drawn_sae)
    with pytest.raises(ValueError, match="'drawn.safetensors' watches the half.*cfg above 1"):
        sample(patched, cfg=1.0)
    assert not watch.runs


def test_nor_is_there_with_guidance_at_some_steps_only(model, world, drawn_sae):
    class ForTheFirstStep(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, *args, **kwargs):
            self.cfg = 3.0 if self.cfg == 0 else 1.0
            return super().predict_noise(x, timestep, *args, **kwargs)

    patched, watch = watched(model, drawn_sae)
    guider = ForTheFirstStep(patched)
    guider.set_conds(encode(world.clip, "a star in neon style"), encode(world.clip, ""))
    guider.set_cfg(0)
    with pytest.raises(ValueError, match="not called for that at 2 of 3 noise levels. Set cfg above 1 at every step"):
        sample_by(guider, steps=3)
    assert not watch.runs


def test_prompts_that_another_node_copies_stay_in_their_half(model, sample):
    """A node that calls the model once more with a copy of the negative prompt, as some guidance nodes do."""
    patched, watch = watched(model)

    def once_more(args):
        negative = [copy.copy(args["uncond"])]
        comfy.samplers.calc_cond_batch(args["model"], negative, args["input"], args["sigma"], args["model_options"])
        return args["denoised"]

    copying = patched.clone()
    copying.set_model_sampler_post_cfg_function(once_more)
    plain = watch.run_of(sample(patched, steps=1)).z
    torch.testing.assert_close(watch.run_of(sample(copying, steps=1)).z, plain)


def test_guiders_with_three_prompts_are_watched_in_the_half_that_is_meant(model, world, drawn_sae):
    star, ring, nothing = (encode(world.clip, text) for text in ("a star in neon style", "a ring in dots style", ""))

    def met(sae, guider, *prompts) -> torch.Tensor:
        patched, watch = watched(model, sae)
        return watch.run_of(sample_by(guider.execute(patched, *prompts).result[0])).z

    for sae, prompted in ((MID, True), (drawn_sae, False)):
        by_star, by_ring, by_nothing = (
            met(sae, CFGGuider, prompt if prompted else nothing, nothing if prompted else prompt, 3.0)
            for prompt in (star, ring, nothing)
        )
        assert differs(by_star, by_ring) and differs(by_ring, by_nothing)
        dual = met(sae, DualCFGGuider, star, ring, nothing, 3.0, 3.0, "regular")
        perp_neg = met(sae, PerpNegGuider, star, ring, nothing, 3.0, 1.0)
        torch.testing.assert_close(dual, torch.maximum(by_star, by_ring) if prompted else by_nothing)
        torch.testing.assert_close(perp_neg, by_star if prompted else torch.maximum(by_ring, by_nothing))


def test_a_node_that_asks_for_the_half_without_prompt_alone_is_told_apart(model, sample):
    """Self-Attention Guidance calls the model once more with a blurred picture and the negative prompt."""
    patched, watch = watched(model)
    calls = []
    blurring = SelfAttentionGuidance.execute(with_probe(patched, lambda x, _: calls.append(len(x))), 0.5, 2.0).result[0]
    plain = watch.run_of(sample(patched, steps=1)).z
    guided = watch.run_of(sample(blurring, steps=1)).z
    assert calls == [2, 1]
    torch.testing.assert_close(guided, plain)


def test_an_sae_that_tells_what_is_drawn_does_not_erase(model, drawn_sae):
    with pytest.raises(ValueError, match=r"'drawn.safetensors' tells what is drawn.*cannot erase"):
        erase(model, sae=drawn_sae)
    loaded = open_sae(drawn_sae)
    with pytest.raises(ValueError, match="cannot erase"):
        erasure_hook(loaded, Erasure(0)).add_hook_patches(model, {}, None, HookGroup())


def test_of_several_prompts_the_strongest_counts(model, world, sample):
    patched, watch = watched(model)
    prompts = [encode(world.clip, text) for text in ("a star in neon style", "a ring in dots style")]
    single = [watch.run_of(sample(patched, steps=1, positive=prompt)).z for prompt in prompts]
    both = watch.run_of(sample(patched, steps=1, positive=prompts[0] + prompts[1])).z
    torch.testing.assert_close(both, torch.maximum(*single), rtol=1e-4, atol=1e-4)
    assert differs(*single)


def test_every_latent_finds_its_own_run(model, sample):
    patched, watch = watched(model)
    latents = [sample(patched, seed=seed, steps=steps) for seed, steps in ((1, 2), (2, 3), (1, 3))]
    assert [len(watch.run_of(found).sigmas) for found in latents] == [2, 3, 3]
    assert [watch.run_of(found) for found in latents] == list(watch.runs)
    mixed = torch.cat([latents[0], latents[1]])
    for strange in (mixed, latents[0] + 1e-3, latents[0][:, :, :4], sample(model, seed=3)):
        with pytest.raises(UnwatchedLatent, match="Connect the MODEL of Watch Concepts to the sampler"):
            watch.run_of(strange)


def test_a_latent_without_a_run_is_told_why(model, sample):
    patched, watch = watched(model)
    with pytest.raises(UnwatchedLatent, match="has made no picture yet.* at least one step.*another seed"):
        watch.run_of(torch.zeros(1, 16, 8, 8))
    one, other = sample(patched, steps=2), sample(patched, steps=3)
    for strange, why in (
        (torch.cat([one, other]), "in runs with other noise levels.*same steps and scheduler"),
        (one + 1e-3, "of SamplerCustomAdvanced output, not denoised_output"),
        (one[:, :, :4], "another size than what the watched model has made"),
    ):
        with pytest.raises(UnwatchedLatent, match=why):
            watch.run_of(strange)


def test_two_watches_on_one_model_do_not_meet(model, sample):
    first, mid = watched(model, MID)
    both, up = watched(first, UP)
    latents = sample(both)
    assert mid.run_of(latents).z.shape == up.run_of(latents).z.shape
    assert differs(mid.run_of(latents).z, up.run_of(latents).z)
    sample(first, seed=2)
    assert (len(mid.runs), len(up.runs)) == (2, 1)


def test_a_run_that_is_broken_off_leaves_nothing(model, sample):
    patched, watch = watched(model)

    def fail(h, skip, options):
        raise RuntimeError("another node fails")

    broken = patched.clone()
    broken.set_model_output_block_patch(fail)
    with pytest.raises(RuntimeError, match="another node fails"):
        sample(broken)
    assert not watch.runs
    assert len(watch.run_of(sample(patched)).sigmas) == 3


def test_latents_of_several_runs_are_known_together(model, sample):
    """As of Sample Prompts, which samples prompts of each length by themselves if the model needs that."""
    patched, watch = watched(model)
    first, second = sample(patched, images=2), sample(patched, seed=5)
    found = watch.run_of(torch.cat([first[1:], second, first[:1]]))
    one, other = watch.runs
    assert torch.equal(found.z, torch.cat([one.z[:, 1:], other.z, one.z[:, :1]], dim=1))
    assert torch.equal(found.sigmas, one.sigmas)


def test_a_sampling_within_a_watched_one_is_a_part_of_it(model, world):
    patched, watch = watched(model)
    nested = watch.run_of(sample_within_a_sampling(world.clip, patched))
    alone = watch.run_of(sample_within_a_sampling(world.clip, patched, nested=False))
    assert len(watch.runs) == 2 and torch.equal(nested.sigmas, alone.sigmas)
    assert (nested.z - alone.z).abs().mean() < 0.1 * alone.z.mean()


def test_maps_that_another_node_scales_for_some_steps_cannot_be_watched(model, sample):
    patched, watch = watched(model)
    scaling = PatchModelAddDownscale.execute(patched, 3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic").result[0]
    with pytest.raises(ValueError, match=f"'{MID}' gives maps of several sizes.*PatchModelAddDownscale"):
        sample(scaling, steps=6, size=(16, 16))
    assert not watch.runs


def test_the_oldest_runs_go_when_all_take_too_much(model, sample, monkeypatch):
    patched, watch = watched(model)
    first = sample(patched)
    monkeypatch.setattr("sae_eraser.nodes.look.watching.KEPT_BYTES", 1.5 * watch.runs[0].bytes)
    second = sample(patched, seed=2)
    assert len(watch.runs) == 1 and watch.run_of(second)
    with pytest.raises(UnwatchedLatent):
        watch.run_of(first)


def test_parts_of_a_picture_cannot_be_watched(model, world, sample):
    area = nodes.ConditioningSetArea().append(encode(world.clip, "a ring"), 32, 64, 0, 0, 1.0)[0]
    for positive in (area, encode(world.clip, "a star") + area):
        with pytest.raises(RuntimeError, match="parts of the picture.*cannot watch"):
            sample(watched(model)[0], positive=positive)


def test_nor_can_tiles(model, sample):
    def in_halves(apply, call):
        halves = call["input"].chunk(2, dim=3)
        return torch.cat([apply(half, call["timestep"], **call["c"]) for half in halves], dim=3)

    patched = watched(model)[0]
    patched.set_model_unet_function_wrapper(in_halves)
    with pytest.raises(RuntimeError, match="parts of the picture.*cannot watch"):
        sample(patched)


def test_nor_can_a_run_in_which_the_block_sees_other_pictures_too(model, sample):
    """As with a reference ControlNet."""

    def twice(executor, x, *args, **kwargs):
        executor(x.flip(3), *args, **kwargs)
        return executor(x, *args, **kwargs)

    patched, watch = watched(model)
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "another node", twice)
    with pytest.raises(ValueError, match="run for other pictures besides those that are sampled"):
        sample(patched)
    assert not watch.runs


def test_nor_can_context_windows_of_some_pictures(model, sample):
    """Both halves of two pictures are as many as the four that are sampled."""
    with pytest.raises(RuntimeError, match="parts of the picture.*cannot watch"):
        sample(in_windows(watched(model)[0], 2, dim=0), images=4)


def test_an_sae_without_concepts_or_of_another_family_is_refused(model, comfyui):
    folder = comfyui.base / "models" / "sae"
    write_random_sae(folder / "foreign.safetensors", "mid_block.attentions.0", model_family="SD15")
    with pytest.raises(ValueError, match="SD15 models"):
        watched(model, "foreign.safetensors")
    sae = open_sae(MID)
    header = replace(sae.header, concepts=())
    save_sae(folder / "empty.safetensors", sae.autoencoder, header, no_statistics())
    with pytest.raises(ValueError, match="no concepts to watch"):
        watched(model, "empty.safetensors")


def test_a_watch_keeps_no_model_alive(comfyui, sample):
    path = folder_paths.get_full_path("checkpoints", "shapecanvas.safetensors")
    other = comfyui.nodes.comfy.sd.load_checkpoint_guess_config(path, output_vae=False, output_clip=False)[0]
    patched, watch = watched(other)
    sample(patched, steps=1)
    diffusion_model = weakref.ref(other.model.diffusion_model)
    del other, patched
    comfy.model_management.unload_all_models()
    comfy.model_management.cleanup_models_gc()
    gc.collect()
    assert watch.runs and diffusion_model() is None


def test_a_compiled_model_is_watched(model, sample):
    patched, watch = watched(compiled(model))
    found = watch.run_of(sample(patched, steps=1)).z
    plain, own = watched(model)
    torch.testing.assert_close(found, own.run_of(sample(plain, steps=1)).z, rtol=1e-3, atol=1e-3)
