"""Hooks blocks of the diffusion model while it samples: the only module that puts them on a ModelPatcher.

A hook sees the block's output (or output minus input) at each model call and returns what is to take its place.
Torch forward hooks that change something sit on the block only during one call of the diffusion model, so nothing can
leak into other branches of the graph, whatever happens in between. While a sampler runs, others refuse what runs there
in any other call.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP

from ...sae_ops.hookpoints import Hookpoint, find_hookpoint
from ...sae_ops.masks import Place
from .forward_hooks import BlockHook, Hooks, find_block, hooked_blocks
from .halves import TAKE_OUT, are_prompted, check_images, note_halves, note_prompts
from .needs import note_call
from .places import find_place, note_sampled
from .run_memory import CallMemory, call_memory, note_run
from .streams import BlockStream, picture_stream

KEY = "sae_eraser"
WRAPPED = (
    WrappersMP.OUTER_SAMPLE,
    WrappersMP.SAMPLER_SAMPLE,
    WrappersMP.PREDICT_NOISE,
    WrappersMP.CALC_COND_BATCH,
    WrappersMP.APPLY_MODEL,
)
"""What of ComfyUI with_hooks may put wrappers around."""
TAKE_MASK_OUT = "Take that node out of the workflow, or take the mask out."


def resolve_hookpoint(model: ModelPatcher, name: str) -> Hookpoint:
    """The hookpoint of this name in the user's model. Raises HookpointError."""
    return find_hookpoint(model.model.diffusion_model, name)


def model_family(model: ModelPatcher) -> str:
    """Name of ComfyUI's config class for this architecture, e.g. "SD15"; the same for all its finetunes."""
    return type(model.model.model_config).__name__


def get_hooks(model: ModelPatcher) -> Hooks:
    """The hooks that an earlier node of this pack put on the model."""
    wrappers = model.get_wrappers(WrappersMP.APPLY_MODEL, KEY)
    return wrappers[0].hooks if wrappers else ()


def with_hooks(model: ModelPatcher, hooks: Hooks) -> ModelPatcher:
    """A clone of the model with exactly these hooks; the model given stays as it is."""
    clone = model.clone()
    for around in WRAPPED:
        clone.remove_wrappers_with_key(around, KEY)
    clone.remove_callbacks_with_key(CallbacksMP.ON_PRE_RUN, KEY)
    for need in dict.fromkeys(need for hook in hooks for need in hook.needs):
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, need)
    if any(hook.takes_place for hook in hooks):
        clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, note_sampled)
    if any(hook.remembers for hook in hooks):
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, note_run)
    if hooks:
        clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, note_prompts)
        clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, note_halves)
        hooked = HookedModel(hooks)
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, hooked.sample)
        clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, hooked.refuse_other_calls)
        clone.add_callback_with_key(CallbacksMP.ON_PRE_RUN, KEY, hooked.check_is_sampled)
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, hooked)
    return clone


class HookedModel:
    """Wraps ComfyUI's call of the model and hooks blocks of the diffusion model for the time of the call.

    Of several around one call only the outermost acts: that of a prompt (see ErasureHook), which adds to the model's.
    """

    at_work: ClassVar[list["HookedModel"]] = []
    """One for each call that goes on, of which several GPUs may have one each."""

    def __init__(self, hooks: Hooks, added: Callable[[Hooks], Hooks] | None = None):
        """added: of a prompt's, makes the hooks that act in calls for the prompt from those of the model.

        That model need not be the one that is called: the first of a guider has the others draw what is on it.
        """
        self.hooks, self.added = hooks, added
        self._runs = 0

    def sample(self, executor, *args, **kwargs):
        """Around one run of a sampler."""
        self._runs += 1
        try:
            return executor(*args, **kwargs)
        finally:
            self._runs -= 1

    def refuse_other_calls(self, executor, guider, *args, **kwargs):
        """Around the steps of a sampler. Raises RuntimeError if it, or another node, calls the model in its own way."""
        model, handles = guider.inner_model.diffusion_model, []
        try:
            for hookpoint in {hook.hookpoint for hook in self.hooks}:
                handles.append(find_block(model, hookpoint).register_forward_pre_hook(_refusing(hookpoint)))
            return executor(guider, *args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    def check_is_sampled(self, model: ModelPatcher) -> None:
        """Before the model is called for the first time in a run. Raises RuntimeError if that is another model's."""
        if not self._runs:
            raise RuntimeError(
                "SAE Eraser's nodes act on the first model of a guider, and on what it has the others draw, but here "
                "they are connected to another one alone (model_negative of Dual Model CFG Guider, for instance), "
                "where ComfyUI passes them over. Put them before the first model."
            )

    def __call__(self, executor, x, *args, **kwargs):
        self.at_work.append(self)
        try:
            return self._call(executor, x, *args, **kwargs)
        finally:
            self.at_work.remove(self)

    def _call(self, executor, x, *args, **kwargs):
        diffusion_model = executor.class_obj.diffusion_model
        options = find_transformer_options(args, kwargs)
        if any(isinstance(wrapper, HookedModel) for wrapper in executor.wrappers[: executor.idx]):
            return executor(x, *args, **kwargs)
        sigmas = options["sigmas"].to("cpu", torch.float32).flatten()  # here a GPU has least to do that is waited for
        prompted, hooks = are_prompted(options), self.hooks
        if self.added:
            within = (own.hooks for own in executor.wrappers[executor.idx + 1 :] if isinstance(own, HookedModel))
            hooks = self.added(next(within, ()))
        note_call(options, sigmas, prompted)
        if reads_halves := any(hook.reads_halves for hook in hooks):
            check_images(len(x), options, prompted)
        place = find_place(x, options, diffusion_model) if any(hook.takes_place for hook in hooks) else None
        memory = call_memory(options) if any(hook.remembers for hook in hooks) else None
        hooks = tuple(_told(hook, place, memory) for hook in hooks)

        def find_stream(hookpoint: Hookpoint) -> BlockStream:
            return picture_stream(hookpoint, diffusion_model, x)

        def levels_and_halves(images: int) -> tuple[torch.Tensor, torch.Tensor]:
            if images != len(x) and (place or reads_halves and not (prompted == prompted[0]).all()):
                raise RuntimeError(
                    f"Another node has a block run for {images} pictures at once, where the model is called for "
                    f"{len(x)}, so SAE Eraser cannot tell which these are. {TAKE_MASK_OUT if place else TAKE_OUT}"
                )
            return _levels_and_halves(sigmas, prompted, images)

        with hooked_blocks(diffusion_model, hooks, find_stream, levels_and_halves, len(x)):
            return executor(x, *args, **kwargs)


def note_every_call(executor, x, *args, **kwargs):
    """The wrapper around calls of the model that tells every Need of them, whether blocks are hooked in them or not."""
    options = find_transformer_options(args, kwargs)
    note_call(options, options["sigmas"].to("cpu", torch.float32).flatten(), are_prompted(options))
    return executor(x, *args, **kwargs)


def _refusing(hookpoint: Hookpoint) -> Callable:
    @torch.compiler.disable
    def before_block(block, args):
        if not HookedModel.at_work:
            raise RuntimeError(
                f"The block {hookpoint.name}, which SAE Eraser hooks, ran in a call of the model that goes past "
                "ComfyUI's wrappers, so nothing would be changed in it. Give the model behind SAE Eraser's nodes to "
                "every input that takes a model, or take the node out of the workflow that calls it in its own way."
            )

    return before_block


def _told(hook: BlockHook, place: Place | None, memory: CallMemory | None) -> BlockHook:
    """The hook for one call, whose function has what it takes of these."""
    facts = ({"place": place} if hook.takes_place else {}) | ({"memory": memory} if hook.remembers else {})
    return replace(hook, function=partial(hook.function, **facts))


def find_transformer_options(args: tuple, kwargs: dict) -> dict:
    """The transformer_options of one call of the model. Raises RuntimeError if it has none."""
    for value in (kwargs.get("transformer_options"), *args):
        if isinstance(value, dict) and "sigmas" in value:
            return value
    raise RuntimeError(
        "Something called the diffusion model without its noise level (transformer_options['sigmas']), so concepts "
        "cannot be erased. Sample with a node that goes through ComfyUI's samplers."
    )


def _levels_and_halves(sigmas: torch.Tensor, prompted: torch.Tensor, images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise level of each image in the batch, which is made of equal chunks, and whether it reads the prompt.

    If another node has made it something else, those of the first: all have one level, and no hook reads the halves.
    """
    sigma = sigmas.repeat(images // len(sigmas)) if images % len(sigmas) == 0 else sigmas[:1].expand(images)
    if images % len(prompted):
        return sigma, prompted[:1].expand(images)
    return sigma, prompted.repeat_interleave(images // len(prompted))
