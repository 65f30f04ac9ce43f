"""Erase Concepts: several concepts of one SAE at once, written as text."""

import contextlib

from comfy_api.latest import io

from ...sae_ops.concepts import Concept, find_concept, is_named
from ...sae_ops.erasure import Erasure
from ..concept_names import split_names
from ..files.load_sae import SAE
from ..hooks.noise_levels import sigma_range
from .concept_inputs import branch_input, mask_input, mode_input, model_input, percent_inputs, read_mask
from .erasing import erase


def read_concepts(text: str, concepts: tuple[Concept, ...]) -> list[tuple[str, float]]:
    """ "star: 1.0, object: circle, neon: 0.5" -> names and strengths; a name without a strength has 1.0.

    Names are separated by commas or new lines; a number after the last colon is the strength, unless it belongs to the
    name of one of these concepts. Raises ValueError on a negative strength, or if there is no name.
    """
    found = []
    for part in split_names(text, concepts):
        name, strength = part, 1.0
        before, _, last = part.replace("：", ":").rpartition(":")
        if not is_named(concepts, part):
            with contextlib.suppress(ValueError):
                name, strength = before, float(last)
        if not name.strip():
            raise ValueError(f"'{part.strip()}' names no concept. Write for example: star: 1.0, neon: 0.5")
        if not 0 <= strength < float("inf"):
            raise ValueError(f"The strength of '{name.strip()}' is {strength}, but must be 0 or more.")
        found.append((name.strip(), strength))
    if not found:
        raise ValueError("No concept is named. Write for example: star: 1.0, neon: 0.5")
    return found


class EraseConcepts(io.ComfyNode):
    """Erases several concepts of one loaded SAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAEEraser_EraseConcepts",
            display_name="Erase Concepts",
            category="model/SAE Eraser",
            description="Takes several concepts of one SAE out of what the model can draw.",
            search_aliases=["unlearn", "remove concepts", "SAE", "concept erasure"],
            inputs=[
                model_input(),
                SAE.Input("sae", tooltip="The SAE, from Load SAE."),
                io.String.Input(
                    "concepts",
                    multiline=True,
                    default="",
                    placeholder="star: 1.0, neon: 0.5",
                    tooltip="Concepts and strengths, separated by commas. 1 erases; if some is left, try 1.5 or 2.",
                ),
                *percent_inputs("Erase"),
                mode_input(),
                branch_input(),
                mask_input("Erase"),
            ],
            outputs=[io.Model.Output(tooltip="The model without the concepts.")],
        )

    @classmethod
    def execute(cls, model, sae, concepts, start_percent, end_percent, mode, branch, mask=None) -> io.NodeOutput:
        """The model itself if all strengths are 0.

        Raises as read_mask, sigma_range, read_concepts, find_concept, Erasure and erase do.
        """
        where = read_mask(mask)
        start, end = sigma_range(model, start_percent, end_percent)
        erasures = tuple(
            Erasure(find_concept(sae.header.concepts, name), strength, mode, start, end, branch, where)
            for name, strength in read_concepts(concepts, sae.header.concepts)
            if strength > 0
        )
        return io.NodeOutput(erase(model, sae, erasures) if erasures else model)
