"""Erase Concept: MODEL in, MODEL out, as familiar as a LoRA loader."""

from comfy_api.latest import io

from ..sae_ops.concepts import find_concept
from ..sae_ops.edit import BRANCHES, MODES, PAPER_COMPAT, Erasure
from .erasing import erase, sigma_range
from .sae_files import NONE_INSTALLED, fingerprint, list_saes, open_sae


def advanced_inputs() -> list[io.Input]:
    """Range, mode and branch: the same on every erase node."""
    percent = {"min": 0.0, "max": 1.0, "step": 0.001, "advanced": True}
    return [
        io.Float.Input("start_percent", default=0.0, tooltip="Erase from this share of the sampling on.", **percent),
        io.Float.Input("end_percent", default=1.0, tooltip="Erase up to this share of the sampling.", **percent),
        io.Combo.Input(
            "mode",
            options=[*MODES, PAPER_COMPAT],
            default="scale",
            advanced=True,
            tooltip="scale: push the concept away by the calibrated multiplier. ablate: set its latent to zero. "
            "clamp: set it to its mean in pictures without the concept. replace: copy neighbouring positions. "
            "paper_compat: SAeUron's published edit with its mistakes, which change the whole picture; for comparison.",
        ),
        io.Combo.Input(
            "branch",
            options=list(BRANCHES),
            default="both",
            advanced=True,
            tooltip="Which half of classifier-free guidance is edited: the positive prompt's (cond), the negative "
            "prompt's (uncond), or both.",
        ),
    ]


class EraseConcept(io.ComfyNode):
    """Erases one concept of an SAE file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        files = list_saes() or {NONE_INSTALLED: ()}
        options = [
            io.DynamicCombo.Option(
                name,
                [io.Combo.Input("concept", options=list(concepts), tooltip="What should no longer be drawn.")],
            )
            for name, concepts in files.items()
        ]
        return io.Schema(
            node_id="SAEEraser_EraseConcept",
            display_name="Erase Concept",
            category="model/SAE Eraser",
            description="Takes a concept out of what the model can draw. Works with any sampler; chain several for "
            "several concepts.",
            search_aliases=["unlearn", "remove concept", "SAE", "sparse autoencoder", "concept erasure", "safety"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model that samples. It is not changed; the output is a patched copy."
                ),
                io.DynamicCombo.Input("sae", options=options, tooltip="A file from models/sae, made for this model."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="0 changes nothing, 1 is the strength calibrated for this concept.",
                ),
                *advanced_inputs(),
            ],
            outputs=[io.Model.Output(tooltip="The model without the concept.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, sae: dict | None = None, **kwargs):
        return fingerprint(sae["sae"]) if sae else None

    @classmethod
    def execute(
        cls, model, strength, start_percent, end_percent, mode, branch, sae: dict | None = None
    ) -> io.NodeOutput:
        if strength == 0:
            return io.NodeOutput(model)
        if sae is None:  # ComfyUI leaves the input out if its file is not in the list
            sae = {"sae": cls.hidden.prompt[cls.hidden.unique_id]["inputs"]["sae"]}
        loaded = open_sae(sae["sae"])
        concept = find_concept(loaded.header.concepts, sae.get("concept", ""))
        start, end = sigma_range(model, start_percent, end_percent)
        return io.NodeOutput(erase(model, loaded, (Erasure(concept, strength, mode, start, end, branch),)))
