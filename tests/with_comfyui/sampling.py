"""ComfyUI's own sampling and the pack's own nodes, with short defaults."""

import comfy.model_patcher
import nodes
import torch
from comfy.patcher_extension import WrappersMP
from comfy.samplers import KSAMPLER, CFGGuider, calculate_sigmas, sampler_object

from sae_eraser.nodes.erase.erase_concept import EraseConcept
from with_comfyui.random_files import MID


def erase(model, concept="disc", sae=MID, strength=1.0, start=0.0, end=1.0, mode="scale", branch="both"):
    """The model as the node Erase Concept hands it on."""
    node = EraseConcept.execute(
        model=model,
        sae={"sae": sae, "concept": concept},
        strength=strength,
        start_percent=start,
        end_percent=end,
        mode=mode,
        branch=branch,
    )
    return node.result[0]


def encode(clip, prompt: str) -> list:
    return nodes.CLIPTextEncode().encode(clip, prompt)[0]


def sample_with(
    clip,
    model,
    seed=1,
    steps=3,
    cfg=3.0,
    sampler="euler",
    size=(8, 8),
    images=1,
    batch_index=None,
    positive=None,
    negative=None,
    denoise=1.0,
) -> torch.Tensor:
    """Latents [images, 16, *size] of KSampler; images of a `batch_index` have the noise of these places in a batch."""
    latent = {"samples": torch.zeros(len(batch_index or range(images)), 16, *size)}
    if batch_index is not None:
        latent["batch_index"] = batch_index
    positive = positive or encode(clip, "a star in neon style")
    negative = negative or encode(clip, "")
    sampled = nodes.KSampler().sample(model, seed, steps, cfg, sampler, "normal", positive, negative, latent, denoise)
    return sampled[0]["samples"]


def sample_by(guider, steps=1) -> torch.Tensor:
    """Latents [1, 16, 8, 8] of a guider."""
    sampling = guider.model_patcher.get_model_object("model_sampling")
    noise, latents = (make(1, 16, 8, 8) for make in (torch.ones, torch.zeros))
    return guider.sample(noise, latents, sampler_object("euler"), calculate_sigmas(sampling, "normal", steps))


def sample_within_a_sampling(clip, model, nested=True) -> torch.Tensor:
    """Latents [1, 16, 8, 8] by a sampler that runs a guider of its own, with the options of the first, which hold the
    model's wrappers. Not nested: by that guider alone."""

    def within(outer, x, sigmas, extra_args, **kwargs):
        inner = guider(outer.inner_model.model_patcher)
        inner.model_options = extra_args["model_options"]
        return inner.sample(x / sigmas[0], torch.zeros_like(x), sampler_object("euler"), sigmas)

    def guider(patched):
        found = CFGGuider(patched)
        found.set_conds(encode(clip, "a star in neon style"), encode(clip, ""))
        found.set_cfg(3.0)
        return found

    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "normal", 2)
    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    sampler = KSAMPLER(within) if nested else sampler_object("euler")
    return guider(model).sample(noise, torch.zeros(1, 16, 8, 8), sampler, sigmas)


def with_probe(model, probe):
    """A clone of the model that calls probe(x, transformer_options) before every call of the diffusion model."""

    def wrapper(executor, x, timesteps, context, y, control, transformer_options, *args, **kwargs):
        probe(x, transformer_options)
        return executor(x, timesteps, context, y, control, transformer_options, *args, **kwargs)

    probed = model.clone()
    probed.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "probe", wrapper)
    return probed


def differs(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether the latents differ by far more than rounding does."""
    return bool((a - b).abs().amax() > 0.01)


def split_guidance(monkeypatch) -> None:
    """Lets ComfyUI believe that memory is short, so that it runs cond and uncond one after the other."""
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "get_free_memory", lambda *arguments: 0)
