"""Erase Concept as Hook: erases for one prompt, scheduled by ComfyUI's hook keyframes."""

from comfy.hooks import HookGroup
from comfy_api.latest import io

from ...sae_ops.erasure import Erasure
from .concept_inputs import (
    fingerprint_choice,
    mask_input,
    mode_input,
    open_choice,
    read_mask,
    sae_input,
    strength_input,
)
from .erasure_hook import erasure_hook


class EraseConceptHook(io.ComfyNode):
    """A hook that erases one concept for the prompts that carry it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAEEraser_EraseConceptHook",
            display_name="Erase Concept as Hook",
            category="model/SAE Eraser",
            description="Takes a concept out of what one prompt draws, and leaves other prompts alone. Connect it to "
            "the prompt with Cond Set Props, and schedule it with Set Hook Keyframes.",
            search_aliases=["unlearn", "regional erase", "scheduled erase", "hook", "SAE", "concept erasure"],
            inputs=[
                sae_input("The concept that the prompt should no longer draw."),
                strength_input(" Keyframes multiply it."),
                mode_input(paper_compat=False),
                mask_input("Erase"),
                io.Hooks.Input("prev_hooks", optional=True, tooltip="Other hooks for the same prompt."),
            ],
            outputs=[io.Hooks.Output(tooltip="For the hooks input of Cond Set Props or Set CLIP Hooks.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, sae: dict | None = None, **kwargs):
        return fingerprint_choice(sae)

    @classmethod
    def execute(cls, strength, mode, sae: dict | None = None, mask=None, prev_hooks=None) -> io.NodeOutput:
        """At strength 0 the other hooks alone. Raises as open_choice and read_mask do."""
        hooks = prev_hooks.clone() if prev_hooks else HookGroup()
        if strength != 0:
            loaded, concept = open_choice(cls, sae)
            hooks.add(erasure_hook(loaded, Erasure(concept, strength, mode, mask=read_mask(mask))))
        return io.NodeOutput(hooks)
