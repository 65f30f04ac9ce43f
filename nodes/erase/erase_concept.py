"""Erase Concept: MODEL in, MODEL out, as familiar as a LoRA loader."""

from comfy_api.latest import io

from ...sae_ops.erasure import Erasure
from ..hooks.noise_levels import sigma_range
from .concept_inputs import (
    branch_input,
    fingerprint_choice,
    mask_input,
    mode_input,
    model_input,
    open_choice,
    percent_inputs,
    read_mask,
    sae_input,
    strength_input,
)
from .erasing import erase


class EraseConcept(io.ComfyNode):
    """Erases one concept of an SAE file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAEEraser_EraseConcept",
            display_name="Erase Concept",
            category="model/SAE Eraser",
            description="Takes a concept out of what the model can draw. Works with any sampler; chain several for "
            "several concepts.",
            search_aliases=["unlearn", "remove concept", "SAE", "sparse autoencoder", "concept erasure", "safety"],
            inputs=[
                model_input(),
                sae_input("The concept that should no longer be drawn."),
                strength_input(),
                *percent_inputs("Erase"),
                mode_input(),
                branch_input(),
                mask_input("Erase"),
            ],
            outputs=[io.Model.Output(tooltip="The model without the concept.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, sae: dict | None = None, **kwargs):
        return fingerprint_choice(sae)

    @classmethod
    def execute(
        cls, model, strength, start_percent, end_percent, mode, branch, sae: dict | None = None, mask=None
    ) -> io.NodeOutput:
        """At strength 0 the model itself. Raises as open_choice, sigma_range, read_mask, Erasure and erase do."""
        if strength == 0:
            return io.NodeOutput(model)
        loaded, concept = open_choice(cls, sae)
        start, end = sigma_range(model, start_percent, end_percent)
        erasure = Erasure(concept, strength, mode, start, end, branch, read_mask(mask))
        return io.NodeOutput(erase(model, loaded, (erasure,)))
