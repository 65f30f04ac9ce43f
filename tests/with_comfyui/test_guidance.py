"""Every way in which ComfyUI lays out cond and uncond in a batch."""

import functools

import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy.samplers import CFGGuider, calc_cond_batch
from comfy_extras.nodes_custom_sampler import CFGOverride, DualModelGuider
from comfy_extras.nodes_perpneg import PerpNeg

from shapecanvas.world import open_world
from with_comfyui.random_files import MID, UP
from with_comfyui.sampling import differs, encode, erase, sample_by, split_guidance, with_probe
from with_comfyui.test_erase_hook import hook, with_hooks_set


@pytest.fixture
def layouts(model, sample):
    """layouts(model, ...) -> the latents, and every cond_or_uncond that occurred while they were sampled."""

    def run(patched, **sampling):
        seen = set()
        probed = with_probe(patched, lambda x, options: seen.add(tuple(options["cond_or_uncond"])))
        return sample(probed, **sampling), seen

    return run


def call(model, layout: list[int], images: int = 2) -> torch.Tensor:
    """One call of the diffusion model with chunks in this order: [chunks, images, 16, 8, 8]. Equal chunks get equal
    inputs; the two images of a chunk have different noise levels."""
    comfy.model_management.load_models_gpu([model])
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(2, images, 16, 8, 8, generator=generator), torch.randn(2, 1, 32, 48, generator=generator)
    x, context = x.to(model.load_device), context.to(model.load_device)
    sigma = torch.linspace(0.5, 3.0, images, device=model.load_device)
    options = model.model_options["transformer_options"] | {
        "wrappers": model.wrappers,
        "cond_or_uncond": layout,
        "sigmas": sigma,
    }
    result = model.model.apply_model(
        torch.cat([x[chunk] for chunk in layout]),
        sigma.repeat(len(layout)),
        c_crossattn=torch.cat([context[chunk].expand(images, -1, -1) for chunk in layout]),
        transformer_options=options,
    )
    return result.unflatten(0, (len(layout), images))


@pytest.mark.parametrize("layout", [[0], [1], [1, 0], [0, 1], [1, 0, 0], [0, 1, 0], [0, 0]], ids=str)
@pytest.mark.parametrize("branch", ["both", "cond", "uncond"])
@pytest.mark.parametrize("sae", [MID, UP])
def test_every_layout_edits_the_chosen_half_and_only_that(model, layout, branch, sae):
    plain, erased = (call(m, [0, 1]) for m in (model, erase(model, sae=sae)))
    result = call(erase(model, sae=sae, branch=branch), layout)
    for chunk, found in zip(layout, result, strict=True):
        edited = branch in ("both", ("cond", "uncond")[chunk])
        torch.testing.assert_close(found, (erased if edited else plain)[chunk], rtol=1e-4, atol=1e-4)
        assert edited == differs(found, plain[chunk])


def test_without_guidance_there_is_only_the_cond_half(model, sample, layouts):
    both, seen = layouts(erase(model), cfg=1.0)
    assert seen == {(0,)}
    assert differs(both, sample(model, cfg=1.0))
    assert torch.equal(sample(erase(model, branch="cond"), cfg=1.0), both)
    with pytest.raises(ValueError, match="branch uncond.*cfg above 1"):
        sample(erase(model, branch="uncond"), cfg=1.0)


def test_with_guidance_each_half_counts(model, sample, layouts):
    both, seen = layouts(erase(model))
    assert seen == {(1, 0)}
    results = [sample(model), both, *(sample(erase(model, branch=branch)) for branch in ("cond", "uncond"))]
    assert all(differs(a, b) for index, a in enumerate(results) for b in results[:index])


@pytest.mark.parametrize("branch", ["both", "cond", "uncond"])
@pytest.mark.parametrize("sae", [MID, UP])
def test_halves_that_run_one_after_the_other_give_the_same(model, layouts, monkeypatch, branch, sae):
    erased = erase(model, sae=sae, branch=branch)
    together, seen = layouts(erased, images=2)
    assert seen == {(1, 0)}
    split_guidance(monkeypatch)
    apart, seen = layouts(erased, images=2)
    assert seen == {(0,), (1,)}
    torch.testing.assert_close(apart, together, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("branch", ["both", "cond", "uncond"])
def test_combined_prompts_run_as_three_chunks(comfyui, world, model, sample, layouts, monkeypatch, branch):
    star, ring = (encode(world.clip, f"a {name} in neon style") for name in ("star", "ring"))
    positive = comfyui.nodes.ConditioningCombine().combine(star, ring)[0]
    erased = erase(model, branch=branch)
    together, seen = layouts(erased, positive=positive)
    assert seen == {(1, 0, 0)}
    assert differs(together, sample(model, positive=positive))
    split_guidance(monkeypatch)
    torch.testing.assert_close(sample(erased, positive=positive), together, rtol=1e-3, atol=1e-3)


def test_a_prompt_for_a_part_of_the_picture_runs_on_a_cut_out_of_another_shape(comfyui, world, model, sample):
    whole, part = (encode(world.clip, f"a {name} in neon style") for name in ("star", "ring"))
    part = comfyui.nodes.ConditioningSetArea().append(part, width=32, height=64, x=0, y=0, strength=1.0)[0]
    positive = comfyui.nodes.ConditioningCombine().combine(whole, part)[0]
    shapes = set()
    erased = with_probe(erase(model), lambda x, options: shapes.add(tuple(x.shape[2:])))
    latents = sample(erased, positive=positive)
    assert shapes == {(8, 8), (8, 4)}
    assert latents.isfinite().all()
    assert differs(latents, sample(model, positive=positive))
    assert torch.equal(sample(erase(model, "silent"), positive=positive), sample(model, positive=positive))


@pytest.mark.parametrize("cfg", [3.0, 1.0])
@pytest.mark.parametrize("of", ["positive", "negative"])
def test_a_prompt_for_a_part_stays_in_its_half(comfyui, world, model, sample, of, cfg):
    """ComfyUI gives the other half a copy of its own prompt for the same part, under the first one's id."""
    star, nothing = (encode(world.clip, text) for text in ("a star in neon style", ""))
    part = comfyui.nodes.ConditioningSetArea().append(encode(world.clip, "a ring"), 32, 64, 0, 0, 1.0)[0]
    prompts = {"positive": star, "negative": nothing} | {of: part}
    plain = sample(model, **prompts, cfg=cfg)
    both, cond = (sample(erase(model, branch=branch), **prompts, cfg=cfg) for branch in ("both", "cond"))
    assert differs(cond, plain)
    if cfg == 1.0:
        torch.testing.assert_close(cond, both)
        with pytest.raises(ValueError, match="branch uncond.*cfg above 1"):
            sample(erase(model, branch="uncond"), **prompts, cfg=cfg)
        return
    uncond = sample(erase(model, branch="uncond"), **prompts)
    assert all(differs(a, b) for a, b in [(uncond, plain), (uncond, both), (uncond, cond), (cond, both)])


def test_the_half_without_the_prompt_is_needed_where_it_is_to_be_changed(model, sample):
    """CFG Override runs a part of the steps without it."""
    erased = erase(model, branch="uncond", start=0.5)
    without_late = CFGOverride.execute(erased, 1.0, 0.5, 1.0).result[0]
    with pytest.raises(ValueError, match="branch uncond.*cfg above 1"):
        sample(without_late, steps=6)
    without_early = CFGOverride.execute(erased, 1.0, 0.0, 0.5).result[0]
    plain = CFGOverride.execute(model, 1.0, 0.0, 0.5).result[0]
    assert differs(sample(without_early, steps=6), sample(plain, steps=6))


def test_a_run_in_which_nothing_was_to_be_changed_needs_nothing(comfyui, world, model):
    """KSampler (Advanced) for the late steps alone, without guidance."""
    conditioning = [encode(world.clip, text) for text in ("a star", "")]

    def late(patched):
        latent = {"samples": torch.zeros(1, 16, 8, 8)}
        arguments = ("enable", 1, 8, 1.0, "euler", "normal", *conditioning, latent, 4, 8, "disable")
        return comfyui.nodes.KSamplerAdvanced().sample(patched, *arguments)[0]["samples"]

    assert torch.equal(late(erase(model, branch="uncond", end=0.4)), late(model))
    with pytest.raises(ValueError, match="branch uncond.*cfg above 1"):
        late(erase(model, branch="uncond", end=0.9))


def test_erasing_before_a_guiders_second_model_alone_is_refused(world, model):
    star, nothing = (encode(world.clip, text) for text in ("a star in neon style", ""))

    def by_two(first, second):
        return sample_by(DualModelGuider.execute(first, star, 3.0, second, nothing).result[0], steps=2)

    for branch in ("both", "uncond"):
        with pytest.raises(RuntimeError, match="first model of a guider.*Put them before the first model"):
            by_two(model, erase(model, branch=branch))
    erased = erase(model)
    assert differs(by_two(erased, model), by_two(model, model))
    assert torch.equal(by_two(erased, erased), by_two(erased, model))
    with pytest.raises(RuntimeError, match="first model of a guider"):
        by_two(model, erased)  # still, though it was sampled where it acts


def test_of_two_nodes_of_one_sae_each_keeps_what_it_needs(model, sample):
    first = erase(model, branch="uncond")
    with pytest.raises(ValueError, match="was not changed at all"):
        sample(erase(first, "box", branch="cond"), cfg=1.0)


def test_a_hook_on_a_prompt_of_a_guiders_second_model_adds_to_the_first_models_erasures(world, model):
    other = open_world().model
    star, ring = (encode(world.clip, f"a {name} in neon style") for name in ("star", "ring"))

    def draw(first, *hooked: str):
        prompt = with_hooks_set(ring, functools.reduce(lambda before, name: hook(name, before=before), hooked, None))
        return sample_by(DualModelGuider.execute(first, star, 3.0, other, prompt).result[0], steps=2)

    expected = draw(erase(model, branch="cond"), "disc", "wavy")
    assert torch.equal(draw(erase(model), "wavy"), expected)
    assert differs(draw(erase(model, branch="cond"), "wavy"), expected)


@pytest.mark.parametrize("branch", ["both", "cond", "uncond"])
def test_a_prompt_that_another_node_brings_is_erased_with_both_halves_or_refused(world, model, sample, branch):
    """It is neither of those that the guider has."""
    calls = []
    probed = with_probe(erase(model, branch=branch), lambda x, options: calls.append(options["cond_or_uncond"]))
    guided = PerpNeg.execute(probed, encode(world.clip, ""), 1.0).result[0]
    if branch == "both":
        assert differs(
            sample(guided, steps=1), sample(PerpNeg.execute(model, encode(world.clip, ""), 1.0).result[0], steps=1)
        )
        assert calls == [[1, 0], [0]]
        return
    chained = PerpNeg.execute(erase(probed, "box"), encode(world.clip, ""), 1.0).result[0]
    for brought in (guided, chained):
        with pytest.raises(RuntimeError, match="a prompt of its own.*Take that node out, or set branch to both"):
            sample(brought, steps=1)


@pytest.mark.parametrize("name", ["negative", "xt_negative"])
def test_a_guiders_negative_is_the_half_without_the_prompt_whatever_it_is_called(world, model, name):
    """SharkGuider of RES4LYF has several."""

    class Guider(CFGGuider):
        def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006
            conds = [self.conds["xt_positive"], self.conds[name]]
            prompted, other = calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
            return other + 3.0 * (prompted - other)

    def draw(patched):
        guider = Guider(patched)
        guider.inner_set_conds({"xt_positive": encode(world.clip, "a star"), name: encode(world.clip, "a star")})
        return sample_by(guider, steps=2)

    results = {branch: draw(erase(model, branch=branch)) for branch in ("both", "cond", "uncond")}
    assert all(differs(found, draw(model)) for found in results.values())
    assert differs(results["cond"], results["both"]) and differs(results["uncond"], results["both"])


def one_by_one(model):
    """A clone whose diffusion model another node runs for every picture by itself, as RES4LYF does."""

    def run(executor, x, timesteps, context, y, control, transformer_options, *args, **kwargs):
        parts = zip(x.split(1), timesteps.split(1), context.split(1), strict=True)
        return torch.cat([executor(*part, y, control, transformer_options, *args, **kwargs) for part in parts])

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "another node", run)
    return clone


def test_blocks_that_run_for_one_picture_of_a_call_are_erased_in_both_halves_or_refused(model, sample):
    whole = sample(erase(model))
    torch.testing.assert_close(sample(one_by_one(erase(model))), whole, rtol=1e-3, atol=1e-3)
    for branch in ("cond", "uncond"):
        with pytest.raises(RuntimeError, match="run for 1 pictures at once.*called for 2.*or set branch to both"):
            sample(one_by_one(erase(model, branch=branch)))


def in_parts(model, parts: int):
    """A clone whose batch another node cuts into so many, to save memory."""

    def run(apply, call):
        def part(value, chosen):
            return value[chosen] if isinstance(value, torch.Tensor) and len(value) == len(call["input"]) else value

        chunks = torch.arange(len(call["input"])).chunk(parts)
        return torch.cat(
            [
                apply(
                    part(call["input"], c), part(call["timestep"], c), **{k: part(v, c) for k, v in call["c"].items()}
                )
                for c in chunks
            ]
        )

    clone = model.clone()
    clone.set_model_unet_function_wrapper(run)
    return clone


@pytest.mark.parametrize("images, parts", [(2, 2), (2, 4), (1, 2)])
def test_a_batch_cut_by_another_node_is_erased_in_both_halves_or_refused(model, sample, images, parts):
    whole = sample(erase(model), images=images)
    torch.testing.assert_close(sample(in_parts(erase(model), parts), images=images), whole, rtol=1e-3, atol=1e-3)
    for branch in ("cond", "uncond"):
        with pytest.raises(RuntimeError, match="cannot tell which of them read the prompt"):
            sample(in_parts(erase(model, branch=branch), parts), images=images)
