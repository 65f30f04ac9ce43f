"""Steer Concept: makes the model draw more of a concept, named in the prompt or not."""

from comfy_api.latest import io

from ...sae_ops.erasure import STEER, Erasure
from ..hooks.noise_levels import sigma_range
from .concept_inputs import (
    branch_input,
    fingerprint_choice,
    mask_input,
    model_input,
    open_choice,
    percent_inputs,
    read_mask,
    sae_input,
)
from .erasing import erase


class SteerConcept(io.ComfyNode):
    """Strengthens one concept of an SAE file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAEEraser_SteerConcept",
            display_name="Steer Concept",
            category="model/SAE Eraser",
            description="Makes the model draw more of a concept, whether the prompt names it or not. Chain it with "
            "Erase Concept to put one concept in the place of another.",
            search_aliases=["strengthen concept", "add concept", "steering", "SAE", "sparse autoencoder"],
            inputs=[
                model_input(),
                sae_input("The concept that should be drawn more."),
                io.Float.Input(
                    "strength",
                    default=1.5,
                    min=0.0,
                    max=20.0,
                    step=0.05,
                    tooltip="How much of the concept is added: 0 changes nothing, 1 adds as much everywhere as "
                    "pictures of it have on average. 1.5 suits most; 3 seldom brings more, and too much spoils the "
                    "picture.",
                ),
                *percent_inputs("Steer"),
                branch_input("cond"),
                mask_input("Steer"),
            ],
            outputs=[io.Model.Output(tooltip="The model with more of the concept.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, sae: dict | None = None, **kwargs):
        return fingerprint_choice(sae)

    @classmethod
    def execute(
        cls, model, strength, start_percent, end_percent, branch, sae: dict | None = None, mask=None
    ) -> io.NodeOutput:
        """At strength 0 the model itself. Raises as open_choice, sigma_range, read_mask and erase do."""
        if strength == 0:
            return io.NodeOutput(model)
        loaded, concept = open_choice(cls, sae)
        start, end = sigma_range(model, start_percent, end_percent)
        steering = Erasure(concept, strength, STEER, start, end, branch, read_mask(mask))
        return io.NodeOutput(erase(model, loaded, (steering,)))
