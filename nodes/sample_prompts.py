"""Sample Prompts: many prompts as one batch, each with a seed of its own."""

import comfy.samplers
from comfy_api.latest import io

from ..training.prompts import read_prompts
from .prompt_batch import sample_prompts


class SamplePrompts(io.ComfyNode):
    """Samples a list of prompts at once; `sae-eraser evaluate` is made of it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAEEraser_SamplePrompts",
            display_name="Sample Prompts",
            category="model/SAE Eraser",
            description="Samples many prompts as one batch. Every picture is the one that its prompt and its seed give "
            "alone, so originals and erased pictures can be compared one by one.",
            search_aliases=["prompt list", "batch prompts", "evaluate erasure"],
            inputs=[
                io.Model.Input("model", tooltip="The model that samples."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default='{"prompt": "a star in neon style"}',
                    tooltip="One JSON object a line, or CSV with a header, as Collect Activations takes them. Labels "
                    "are not needed.",
                ),
                io.Int.Input(
                    "first_seed",
                    default=0,
                    min=0,
                    max=2**48,
                    tooltip="The first prompt's seed; the second has the next one, and so on.",
                ),
                io.Int.Input("steps", default=25, min=1, max=1000, tooltip="Steps of the sampler."),
                io.Float.Input(
                    "cfg", default=7.0, min=0.0, max=30.0, step=0.1, tooltip="Strength of classifier-free guidance."
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default="euler",
                    tooltip="Samplers that add noise at every step draw it for the whole batch from the first seed.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="normal",
                    tooltip="Which noise levels the steps are at.",
                ),
                io.Int.Input("width", default=512, min=16, max=8192, step=8, tooltip="Of the pictures, in pixels."),
                io.Int.Input("height", default=512, min=16, max=8192, step=8, tooltip="Of the pictures, in pixels."),
            ],
            outputs=[io.Latent.Output(tooltip="One latent a prompt, in their order.")],
        )

    @classmethod
    def execute(cls, model, clip, prompts, first_seed, **sampling) -> io.NodeOutput:
        texts = [entry.prompt for entry in read_prompts(prompts)]
        seeds = [first_seed + index for index in range(len(texts))]
        return io.NodeOutput({"samples": sample_prompts(model, clip, texts, seeds, **sampling)})
