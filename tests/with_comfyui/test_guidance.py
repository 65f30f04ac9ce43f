"""Every way in which ComfyUI lays out cond and uncond in a batch."""

import comfy.model_management
import pytest
import torch

from with_comfyui.random_files import MID, UP
from with_comfyui.sampling import differs, encode, erase, split_guidance, with_probe


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
