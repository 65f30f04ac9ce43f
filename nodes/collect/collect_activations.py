"""Collect Activations: samples labelled prompts and writes the cache that training reads."""

import hashlib
from dataclasses import asdict

import comfy.model_management
from comfy_api.latest import io, ui

from ...sae_ops.hookpoints import Hookpoint
from ...sae_ops.sae_file import HOOKED_TENSORS
from ...sae_ops.text_hookpoints import is_text_hookpoint
from ...training.cache.manifest import CachedImage, CacheSettings
from ...training.cache.reader import Cache
from ...training.cache.storage import STORAGES
from ...training.cache.writer import CacheWriter
from ...training.prompts import read_prompts
from ..files.cache_folders import new_cache_path
from ..files.fingerprints import changes_since, note_left
from ..hooks.block_hooks import get_hooks, model_family, resolve_hookpoint, with_hooks
from ..hooks.forward_hooks import BlockHook
from ..hooks.text_hooks import resolve_text_hookpoint
from ..sample.prompt_batch import sample_prompts
from ..sample.prompt_text import prompt_text
from ..sample.sampling_inputs import first_seed_input, sampling_inputs
from ..sample.sampling_progress import SamplingProgress, size_text
from .cache_filling import fill_cache, read_share
from .model_source import find_source
from .recording import COLLECTED_BRANCHES, Keep, Recorder
from .text_recording import TextRecorder


class CollectActivations(io.ComfyNode):
    """Samples every prompt with every seed and caches what passes through the hookpoints."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAEEraser_CollectActivations",
            display_name="Collect Activations",
            category="model/SAE Eraser",
            description="Samples labelled prompts and writes the activations of one or more blocks to a folder, "
            "from which Train SAE or 'sae-eraser train' makes an SAE. Goes on where it was stopped.",
            search_aliases=["activation cache", "train SAE", "dataset"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that samples. It is not changed."),
                io.Clip.Input("clip", tooltip="Text encoder of the model."),
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
                    tooltip="Blocks to read, diffusers' names or module paths, separated by commas. Those of text "
                    "encoders (text_encoder.text_model.encoder.layers.8) need no sampling: 1 seed is enough.",
                ),
                io.String.Input("name", default="my_cache", tooltip="The cache goes to output/sae_cache/NAME."),
                io.Int.Input("seeds", default=4, min=1, max=10_000, tooltip="Number of pictures of every prompt."),
                first_seed_input(
                    "Seed of the first picture of every prompt; the next has the next seed.", advanced=True
                ),
                *sampling_inputs(steps=25, about_samplers="Sampler that makes the pictures."),
                io.Int.Input("batch_size", default=4, min=1, max=256, tooltip="Number of pictures sampled at once."),
                *_what_to_keep(),
                io.Combo.Input(
                    "hooked",
                    options=list(HOOKED_TENSORS),
                    default="output",
                    advanced=True,
                    tooltip="What is read of each block: its output, or output minus input (residual).",
                ),
                io.String.Input(
                    "shard",
                    default="1/1",
                    advanced=True,
                    tooltip="Several machines can fill one cache: 1/4 on the first of four, then 2/4, 3/4 and 4/4, all "
                    "else equal. They write to one folder, or to folders of the same name to be merged later.",
                ),
            ],
            outputs=[io.String.Output("cache", tooltip="The folder of the cache.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, prompts=None, name=None, **kwargs):
        """Changes with the file of prompts, and if the cache is not as the node has left it.

        An input that another node computes is None here.
        """
        asked = hashlib.sha256(prompt_text(prompts or "").encode()).hexdigest()
        return [asked, *(changes_since(new_cache_path(name), {}) if name else [])]

    @classmethod
    def execute(
        cls,
        model,
        clip,
        prompts,
        hookpoints,
        name,
        seeds,
        first_seed,
        batch_size,
        storage,
        keep_steps,
        keep_positions,
        sigma_min,
        sigma_max,
        branch,
        hooked,
        shard,
        **sampling,
    ) -> io.NodeOutput:
        points, is_text = _resolve(model, clip, hookpoints)
        images = [
            CachedImage(entry.prompt, first_seed + seed, {group: list(names) for group, names in entry.labels.items()})
            for seed in range(seeds)
            for entry in read_prompts(prompt_text(prompts))
        ]
        keep = Keep(keep_steps, keep_positions, sigma_min, sigma_max, branch)
        settings = CacheSettings(
            model_family(model),
            {point.name: point.width for point in points},
            hooked,
            sampling | asdict(keep),
            images,
            storage,
            source=_source(cls, ("clip",) if is_text else ("model", "clip")),
        )
        recorder = Recorder(keep)
        if is_text:
            texts = TextRecorder(clip, points, hooked, recorder)
        else:
            hooks = tuple(BlockHook(point, hooked, recorder.function(point.name)) for point in points)
            recorded = with_hooks(model, (*get_hooks(model), *hooks))

        def sample(indices: range):
            comfy.model_management.throw_exception_if_processing_interrupted()
            batch = images[indices.start : indices.stop]
            if is_text:
                return texts.record(indices, [i.prompt for i in batch])
            recorder.start(indices)
            sample_prompts(recorded, clip, [i.prompt for i in batch], [i.seed for i in batch], **sampling)
            return recorder.take()

        folder = new_cache_path(name)
        with SamplingProgress(folder.name, getattr(cls.hidden, "unique_id", None)) as progress:
            share = read_share(shard)
            writer = fill_cache(folder, settings, share, batch_size, sample, progress, recorder.map_positions)
        note_left(folder, {})
        return io.NodeOutput(str(folder), ui=ui.PreviewText(_summary(writer)))


def _source(node: type[io.ComfyNode], inputs: tuple[str, ...]) -> list[str]:
    """What is before these inputs of the node; empty where it does not run in a workflow."""
    hidden = node.hidden
    return find_source(hidden.prompt, hidden.unique_id, inputs) if hidden and hidden.prompt else []


def _resolve(model, clip, hookpoints: str) -> tuple[list[Hookpoint], bool]:
    """The hookpoints named in this list, and whether they are in the text encoder. Raises ValueError."""
    names = [point.strip() for point in hookpoints.split(",") if point.strip()]
    if not names:
        raise ValueError("No hookpoint is named. Write for example up_blocks.1.attentions.1.")
    is_text = is_text_hookpoint(names[0])
    if any(is_text_hookpoint(name) != is_text for name in names):
        raise ValueError(
            "Some of these hookpoints are in the text encoder and some in the diffusion model. Collect them into two "
            "caches."
        )
    found = [resolve_text_hookpoint(clip, name) if is_text else resolve_hookpoint(model, name) for name in names]
    return list(dict.fromkeys(found)), is_text


def _what_to_keep() -> list[io.Input]:
    return [
        io.Combo.Input(
            "storage",
            options=list(STORAGES),
            default="fp16",
            tooltip="How numbers are stored. int8 takes half the space of fp16 and costs about 1 % of precision; bf16 "
            "holds larger numbers.",
        ),
        io.Int.Input(
            "keep_steps",
            default=0,
            min=0,
            max=10_000,
            tooltip="Keep so many of the model's calls for a picture, spread evenly, the first and the last included. "
            "0 keeps all.",
        ),
        io.Int.Input(
            "keep_positions",
            default=0,
            min=0,
            max=2**24,
            tooltip="Keep so many positions of every map, drawn at random for every picture and call. 0 keeps all.",
        ),
        io.Float.Input(
            "sigma_min",
            default=0.0,
            min=0.0,
            max=1e6,
            step=0.01,
            advanced=True,
            tooltip="Keep only calls at this noise level (sigma) or above.",
        ),
        io.Float.Input(
            "sigma_max",
            default=0.0,
            min=0.0,
            max=1e6,
            step=0.01,
            advanced=True,
            tooltip="Keep only calls at this noise level (sigma) or below. 0 is no limit.",
        ),
        io.Combo.Input(
            "branch",
            options=list(COLLECTED_BRANCHES),
            default="cond",
            tooltip="Which half of classifier-free guidance is kept: that of the prompt (cond), or both, which takes "
            "twice the space. With both, Train SAE learns what each name brings to a picture: at a block that decides "
            "the concept alone erasing leaves cleaner pictures. Labels must then name all that the prompts name.",
        ),
    ]


def _summary(writer: CacheWriter) -> str:
    missing, shards = len(writer.missing()), writer.settings.shards
    if missing:
        return f"{writer.folder} has {shards - missing} of {shards} shards. The others come from the other machines."
    pictures = len(writer.settings.images)
    size = size_text(Cache(writer.folder).bytes)
    return f"{writer.folder} is complete: {pictures} {'picture' if pictures == 1 else 'pictures'}, {size}."
