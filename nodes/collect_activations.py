"""Collect Activations: samples labelled prompts and writes the cache that training reads."""

from pathlib import Path

import comfy.model_management
import comfy.samplers
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

from ..sae_ops.file import HOOKED_TENSORS
from ..training.cache import CachedImage, CacheSettings, CacheWriter
from ..training.prompts import read_prompts
from .block_hooks import BlockHook, model_family, resolve_hookpoint, with_hooks
from .prompt_batch import sample_prompts

IMAGES_PER_SHARD = 96


class Recorder:
    """The functions of BlockHooks that copy the conditional half of what passes and change nothing."""

    def __init__(self):
        self.steps: dict[str, list[torch.Tensor]] = {}
        self.sigmas: dict[str, list[torch.Tensor]] = {}

    def function(self, name: str):
        def record(x, sigma, is_cond):
            if is_cond.any():
                vectors = x[is_cond].flatten(2).movedim(1, 2)
                self.steps.setdefault(name, []).append(vectors.to("cpu", torch.float16))
                self.sigmas.setdefault(name, []).append(sigma[is_cond].cpu())
            return x

        return record

    def take(self) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Activations of the batch by hookpoint, [images, steps, positions, width], and sigmas [images, steps]."""
        activations = {name: torch.stack(steps, dim=1) for name, steps in self.steps.items()}
        sigmas = torch.stack(next(iter(self.sigmas.values())), dim=1)
        self.steps, self.sigmas = {}, {}
        return activations, sigmas


class CollectActivations(io.ComfyNode):
    """Samples every prompt with every seed and caches what passes through the hookpoints."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAEEraser_CollectActivations",
            display_name="Collect Activations",
            category="model/SAE Eraser",
            description="Samples labelled prompts and writes the activations of one or more blocks to a folder, "
            "from which 'sae-eraser train' makes an SAE. Goes on where it was stopped.",
            search_aliases=["activation cache", "train SAE", "dataset"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip"),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default='{"prompt": "a star in neon style", "object": "star", "style": "neon"}',
                    tooltip="One JSON object a line, or CSV with a header; or the name of a .jsonl or .csv file in "
                    "ComfyUI's input folder. Every field besides the prompt is a group of labels.",
                ),
                io.String.Input(
                    "hookpoints",
                    default="up_blocks.1.attentions.1",
                    tooltip="Blocks to read, diffusers' names or module paths, separated by commas.",
                ),
                io.String.Input("name", default="my_cache", tooltip="The cache goes to output/sae_cache/NAME."),
                io.Int.Input("seeds", default=4, min=1, max=10_000, tooltip="Pictures of every prompt."),
                io.Int.Input("first_seed", default=0, min=0, max=2**48, advanced=True),
                io.Int.Input("steps", default=25, min=1, max=1000),
                io.Float.Input("cfg", default=7.0, min=0.0, max=30.0, step=0.1),
                io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="euler"),
                io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, default="normal"),
                io.Int.Input("width", default=512, min=16, max=8192, step=8),
                io.Int.Input("height", default=512, min=16, max=8192, step=8),
                io.Int.Input("batch_size", default=4, min=1, max=256, tooltip="Pictures sampled at once."),
                io.Combo.Input(
                    "hooked",
                    options=list(HOOKED_TENSORS),
                    default="output",
                    advanced=True,
                    tooltip="Read the block's output, or output minus input (residual).",
                ),
            ],
            outputs=[io.String.Output("cache", tooltip="The folder of the cache.")],
        )

    @classmethod
    def execute(
        cls, model, clip, prompts, hookpoints, name, seeds, first_seed, batch_size, hooked, **sampling
    ) -> io.NodeOutput:
        points = [resolve_hookpoint(model, point) for point in hookpoints.split(",") if point.strip()]
        if not points:
            raise ValueError("No hookpoint is named. Write for example up_blocks.1.attentions.1.")
        images = [
            CachedImage(entry.prompt, first_seed + seed, {group: list(names) for group, names in entry.labels.items()})
            for seed in range(seeds)
            for entry in read_prompts(_prompt_text(prompts))
        ]
        settings = CacheSettings(
            model_family(model), {point.name: point.width for point in points}, hooked, sampling, images
        )
        writer = CacheWriter(cache_folder(name), settings)
        recorder = Recorder()
        hooks = tuple(BlockHook(point, hooked, recorder.function(point.name)) for point in points)
        recorded = with_hooks(model, hooks)
        progress = comfy.utils.ProgressBar(len(images))
        while writer.images_done < len(images):
            progress.update_absolute(writer.images_done)
            shard = images[writer.images_done : writer.images_done + IMAGES_PER_SHARD]
            batches = []
            for start in range(0, len(shard), batch_size):
                comfy.model_management.throw_exception_if_processing_interrupted()
                batch = shard[start : start + batch_size]
                sample_prompts(recorded, clip, [i.prompt for i in batch], [i.seed for i in batch], **sampling)
                batches.append(recorder.take())
                progress.update(len(batch))
            activations = {
                point.name: torch.cat([activations[point.name] for activations, _ in batches]) for point in points
            }
            writer.write_shard(activations, torch.cat([sigmas for _, sigmas in batches]))
        return io.NodeOutput(str(writer.folder))


def cache_folder(name: str) -> Path:
    """output/sae_cache/NAME. Raises ValueError if the name would lead out of it."""
    root = Path(folder_paths.get_output_directory(), "sae_cache").resolve()
    folder = (root / name.strip()).resolve()
    if folder.parent != root or not name.strip():
        raise ValueError(f"'{name}' is no usable name for a cache. Use letters, digits, '-' and '_'.")
    return folder


def _prompt_text(prompts: str) -> str:
    """The text itself, or the content of the file in the input folder that it names."""
    if prompts.strip().endswith((".jsonl", ".csv")) and "\n" not in prompts.strip():
        path = Path(folder_paths.get_input_directory(), prompts.strip()).resolve()
        if not path.is_relative_to(Path(folder_paths.get_input_directory()).resolve()) or not path.is_file():
            raise ValueError(f"{prompts.strip()} is not in ComfyUI's input folder. Put the file there.")
        return path.read_text()
    return prompts
