"""Sample Prompts: many prompts as one batch, each with a seed of its own."""

import latent_preview
import torch
from comfy_api.latest import io

from ...training.prompts import read_prompts
from .prompt_batch import EncodedOnce, sample_prompts, taken_together
from .prompt_text import prompt_text
from .sampling_inputs import first_seed_input, sampling_inputs


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
                io.Clip.Input("clip", tooltip="Text encoder of the model."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default='{"prompt": "a star in neon style"}',
                    tooltip="One JSON object a line, CSV with a header, or the name of a file, as Collect Activations "
                    "takes them. Labels are not needed.",
                ),
                first_seed_input("Seed of the first prompt; the second has the next one, and so on."),
                *sampling_inputs(
                    steps=25,
                    about_samplers="Sampler that makes the pictures. Those that add noise at every step draw it for "
                    "the whole batch from the first seed.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="One latent a prompt, in their order.")],
        )

    @classmethod
    def fingerprint_inputs(cls, prompts: str | None = None, **kwargs) -> str | None:
        return prompt_text(prompts) if prompts else None

    @classmethod
    def execute(cls, model, clip, prompts, first_seed, **sampling) -> io.NodeOutput:
        texts = [entry.prompt for entry in read_prompts(prompt_text(prompts))]
        seeds = [first_seed + index for index in range(len(texts))]
        return io.NodeOutput({"samples": _sampled(model, EncodedOnce(clip), texts, seeds, sampling)})


def _sampled(model, clip, texts: list[str], seeds: list[int], sampling: dict) -> torch.Tensor:
    """Samples all at once; where the model cannot take prompts of several lengths together, those of each length."""
    latents: dict[int, torch.Tensor] = {}
    for places in taken_together(model, clip, texts):
        own_texts, own_seeds = [texts[place] for place in places], [seeds[place] for place in places]
        callback = latent_preview.prepare_callback(model, sampling["steps"])
        sampled = sample_prompts(model, clip, own_texts, own_seeds, callback=callback, **sampling)
        latents |= zip(places, sampled, strict=True)
    return torch.stack([latents[place] for place in range(len(texts))])
