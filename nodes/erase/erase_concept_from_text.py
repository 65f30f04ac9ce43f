"""Erase Concept from Text: CLIP in, CLIP out, for SAEs of a text encoder's layer."""

from comfy.sd import CLIP
from comfy_api.latest import io

from ...sae_ops.erasure import Erasure
from ..files.sae_files import LoadedSAE
from ..hooks.sae_hookpoints import resolve_sae_in_text
from ..hooks.text_hooks import get_text_hooks, with_text_hooks
from .concept_inputs import fingerprint_choice, mode_input, open_choice, sae_input, strength_input
from .erasing import add_erasures, refuse_uncond


def erase_from_text(clip: CLIP, sae: LoadedSAE, erasures: tuple[Erasure, ...]) -> CLIP:
    """A clone of the CLIP that erases these concepts from prompts, besides those that earlier nodes erase.

    Raises as refuse_uncond, resolve_sae_in_text and add_erasures do.
    """
    refuse_uncond(sae)  # first, as what is said of its place sends it to another erase node
    hookpoint = resolve_sae_in_text(clip, sae)
    return with_text_hooks(clip, add_erasures(get_text_hooks(clip), hookpoint, sae, erasures))


class EraseConceptFromText(io.ComfyNode):
    """Erases one concept of an SAE file from what prompts become."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAEEraser_EraseConceptFromText",
            display_name="Erase Concept from Text",
            category="model/SAE Eraser",
            description="Takes a concept out of prompts while CLIP encodes them, with an SAE of a text encoder's "
            "layer. Chain several for several concepts.",
            search_aliases=["unlearn", "remove concept", "CLIP", "prompt", "text encoder", "SAE", "safety"],
            inputs=[
                io.Clip.Input(
                    "clip", tooltip="The CLIP that encodes prompts. It is not changed; the output is a patched copy."
                ),
                sae_input("The concept that prompts should no longer name."),
                strength_input(),
                mode_input(paper_compat=False),
            ],
            outputs=[io.Clip.Output(tooltip="For CLIP Text Encode: prompts without the concept.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, sae: dict | None = None, **kwargs):
        return fingerprint_choice(sae)

    @classmethod
    def execute(cls, clip, strength, mode, sae: dict | None = None) -> io.NodeOutput:
        """At strength 0 the CLIP itself. Raises as open_choice and erase_from_text do."""
        if strength == 0:
            return io.NodeOutput(clip)
        loaded, concept = open_choice(cls, sae)
        return io.NodeOutput(erase_from_text(clip, loaded, (Erasure(concept, strength, mode),)))
