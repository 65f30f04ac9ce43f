"""Erases for some prompts only, through ComfyUI's hooks on conditioning (comfy/hooks.py)."""

from dataclasses import replace
from itertools import pairwise

from comfy.hooks import AdditionalModelsHook, EnumHookScope, TransformerOptionsHook
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ...sae_ops.erasure import Erasure
from ..files.sae_files import LoadedSAE
from ..files.whole_encoders import whole_encoder
from ..hooks.block_hooks import KEY, HookedModel, note_every_call
from ..hooks.forward_hooks import Hooks
from ..hooks.needs import CALLS, Need
from ..hooks.places import note_sampled
from ..hooks.run_memory import note_run
from ..hooks.sae_hookpoints import resolve_sae
from .erasing import add_erasures


class ErasureHook(TransformerOptionsHook):
    """One erasure for the prompts that carry the hook, besides what the model's own nodes erase.

    Its strength is that of the erasure times that of the hook's keyframe. ComfyUI clones hooks without arguments.
    """

    sae: LoadedSAE
    erasure: Erasure

    def __init__(self):
        super().__init__(hook_scope=EnumHookScope.HookedOnly)
        self._last: tuple[tuple[Hooks, float], Hooks] | None = None

    def clone(self) -> "ErasureHook":
        """The same erasure with a strength and keyframes of its own."""
        clone = super().clone()
        clone.sae, clone.erasure = self.sae, self.erasure
        return clone

    def add_hook_patches(self, model: ModelPatcher, model_options: dict, target_dict, registered) -> bool:
        """Before sampling. Raises as resolve_sae and add_erasures do, if the SAE is not for this model."""
        hooks = add_erasures((), resolve_sae(model, self.sae), self.sae, (self.erasure,))
        registered.add(self)
        encoder = whole_encoder(self.sae)
        if encoder:
            registered.add(AdditionalModelsHook([encoder], KEY))
        if self.erasure.mask is not None:
            add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, note_sampled, model_options, is_model_options=True)
        if any(hook.remembers for hook in hooks):
            add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, note_run, model_options, is_model_options=True)
        for start in self._starts(model):
            need = Need("both", start, 0.0, None)
            add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, need, model_options, is_model_options=True)
            add_wrapper_with_key(WrappersMP.APPLY_MODEL, CALLS, note_every_call, model_options, is_model_options=True)
        return True

    def _starts(self, model: ModelPatcher) -> list[float]:
        """Noise levels at which keyframes let it act that did not before."""
        sampling = model.get_model_object("model_sampling")
        frames = pairwise(self.hook_keyframe.keyframes)
        begins = [after.start_percent for before, after in frames if before.strength == 0 < after.strength]
        return [float(sampling.percent_to_sigma(percent)) for percent in begins]

    def on_apply_hooks(self, model: ModelPatcher, transformer_options: dict) -> None:
        """Before every call of the model for prompts that carry the hook. Raises ValueError on a negative strength."""
        strength = float(self.strength)
        if strength < 0:
            raise ValueError(
                f"A keyframe of the hook that erases has the strength {strength:g}, but erasing needs 0 or more. Set "
                "strength_mult in Create Hook Keyframe to 0 or more; Steer Concept strengthens a concept."
            )
        if strength == 0:
            return
        wrappers = transformer_options.setdefault("wrappers", {}).setdefault(WrappersMP.APPLY_MODEL, {})
        earlier = wrappers[KEY][0].added if KEY in wrappers else None  # of another such hook

        def added(hooks: Hooks) -> Hooks:
            return self._added(earlier(hooks) if earlier else hooks, model, strength)

        wrappers[KEY] = [HookedModel((), added)]

    def _added(self, before: Hooks, model: ModelPatcher, strength: float) -> Hooks:
        """The hooks with this erasure, the same as the last time if nothing else is asked for."""
        if self._last is None or self._last[0] != (before, strength):
            erasure = replace(self.erasure, strength=self.erasure.strength * strength)
            hooks = add_erasures(before, resolve_sae(model, self.sae), self.sae, (erasure,))
            self._last = (before, strength), hooks
        return self._last[1]


def erasure_hook(sae: LoadedSAE, erasure: Erasure) -> ErasureHook:
    """The hook that erases this; whether the SAE fits the model shows when a model is sampled with it."""
    hook = ErasureHook()
    hook.sae, hook.erasure = sae, erasure
    return hook
