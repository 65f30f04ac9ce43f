"""Hooks blocks of the diffusion model while it samples: the only module that touches a ModelPatcher.

A hook sees the block's output (or output minus input) at each model call and returns what is to take its place.
Torch forward hooks sit on the block only during one call of the diffusion model, so nothing can leak into other
branches of the graph, whatever happens in between.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ..sae_ops.hookpoints import Hookpoint, find_hookpoint

KEY = "sae_eraser"


@dataclass(frozen=True)
class BlockHook:
    """What to do at one block."""

    hookpoint: Hookpoint
    hooked: str
    """"output" or "residual" (output minus input)."""
    function: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    """(x [images, d, height, width], sigma [images], is_cond [images]) -> x of the same shape."""


def resolve_hookpoint(model: ModelPatcher, name: str) -> Hookpoint:
    """The hookpoint of this name in the user's model. Raises HookpointError."""
    return find_hookpoint(model.model.diffusion_model, name)


def model_family(model: ModelPatcher) -> str:
    """Name of ComfyUI's config class for this architecture, e.g. "SD15"; the same for all its finetunes."""
    return type(model.model.model_config).__name__


def get_hooks(model: ModelPatcher) -> tuple[BlockHook, ...]:
    """The hooks that an earlier node of this pack put on the model."""
    wrappers = model.get_wrappers(WrappersMP.DIFFUSION_MODEL, KEY)
    return wrappers[0].hooks if wrappers else ()


def with_hooks(model: ModelPatcher, hooks: tuple[BlockHook, ...]) -> ModelPatcher:
    """A clone of the model with exactly these hooks; the model given stays as it is."""
    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.DIFFUSION_MODEL, KEY)
    if hooks:
        clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, HookedDiffusionModel(hooks))
    return clone


class HookedDiffusionModel:
    """Wraps ComfyUI's call of the diffusion model and hooks its blocks for the time of the call."""

    def __init__(self, hooks: tuple[BlockHook, ...]):
        self.hooks = hooks

    def __call__(self, executor, *args, **kwargs):
        options = _transformer_options(args, kwargs)
        at_block = defaultdict(list)
        for hook in self.hooks:
            at_block[hook.hookpoint].append(hook)
        ran: set[Hookpoint] = set()
        handles = []
        try:
            for hookpoint, hooks in at_block.items():
                block = executor.class_obj.get_submodule(hookpoint.path)
                handles.append(block.register_forward_hook(_forward_hook(hookpoint, hooks, options, ran)))
            result = executor(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        for hookpoint in at_block.keys() - ran:
            raise RuntimeError(
                f"The block {hookpoint.name}, where concepts are erased, did not run in this step. Another node skips "
                "or replaces it (a cache such as DeepCache, for instance); take that node out of the workflow."
            )
        return result


def _forward_hook(hookpoint: Hookpoint, hooks: list[BlockHook], options: dict, ran: set):
    def forward_hook(block, inputs, output):
        ran.add(hookpoint)
        sigma, is_cond = _rows(options, output.shape[0], output.device)
        result = output
        for hook in hooks:
            before = output - inputs[0] if hook.hooked == "residual" else output
            after = hook.function(before, sigma, is_cond)
            if after is before:
                continue
            alone = hook.hooked == "output" and len(hooks) == 1
            result = after if alone else result + (after - before)
        return result

    return forward_hook


def _transformer_options(args: tuple, kwargs: dict) -> dict:
    for value in (kwargs.get("transformer_options"), *args):
        if isinstance(value, dict) and "sigmas" in value:
            return value
    raise RuntimeError(
        "Something called the diffusion model without its noise level (transformer_options['sigmas']), so concepts "
        "cannot be erased. Sample with a node that goes through ComfyUI's samplers."
    )


def _rows(options: dict, images: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise level and guidance half of each image in the batch, which is made of equal chunks, cond or uncond."""
    chunks = options["cond_or_uncond"]
    sigmas = options["sigmas"].to(device, torch.float32).flatten()
    sigma = sigmas.repeat(images // len(sigmas)) if images % len(sigmas) == 0 else sigmas[:1].expand(images)
    is_cond = torch.tensor([chunk == 0 for chunk in chunks], device=device)
    return sigma, is_cond.repeat_interleave(images // len(chunks))
