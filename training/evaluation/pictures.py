"""The pictures of an evaluation: sampled in a ComfyUI in batches, original and erased with the same seeds, and kept."""

import functools
import hashlib
import io
import json
import re
import urllib.error
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ...sae_ops.atomic_write import remove_parts, write_atomically
from ..comfyui.server import GO_ON, ComfyUI, ComfyUIError, run_graph
from ..prompts import LabelledPrompt

SAMPLE, ERASE, GUARD = "SAEEraser_SamplePrompts", "SAEEraser_EraseConcept", "SAEEraser_ConceptGuard"
LONGEST_NAME = 80
"""Letters of a concept that its folder is called by."""
WITHHELD = "withheld"
"""Noted in the files of pictures that Concept Guard has blackened."""


@dataclass(frozen=True)
class Setting:
    """What is erased and how strongly."""

    concept: str | None
    """As the SAE lists it; None is the original."""
    strength: float = 0.0

    @property
    def name(self) -> str:
        """Of a folder, on any file system."""
        if self.concept is None:
            return "original"
        name = re.sub(r"[^a-z0-9-]", "_", self.concept.lower())[:LONGEST_NAME]
        if name != self.concept:
            name += "-" + hashlib.sha256(self.concept.encode()).hexdigest()[:6]
        return f"{name} at {self.strength:g}"

    def __str__(self) -> str:
        return "originals" if self.concept is None else f"{self.concept} erased at strength {self.strength:g}"


ORIGINAL = Setting(None)


@dataclass(frozen=True)
class Sampling:
    """All that the pictures depend on besides the setting. Picture i has prompts[i] and the seed first_seed + i."""

    checkpoint: str
    sae: str
    prompts: list[LabelledPrompt]
    first_seed: int
    batch_size: int
    inputs: dict
    """Of Sample Prompts: steps, cfg, sampler_name, scheduler, width, height."""
    erasing: dict
    """Of Erase Concept: mode, branch, start_percent, end_percent."""
    guard: dict | None = None
    """Of Concept Guard behind every erasure, if there is one: sae (a file in models/sae), threshold."""


def picture_files(out: Path, sampling: Sampling, setting: Setting) -> list[Path]:
    """Where the pictures of a setting are kept, one for every prompt."""
    return [out / "pictures" / setting.name / f"{index:05}.png" for index in range(len(sampling.prompts))]


def withheld_pictures(files: Sequence[Path]) -> frozenset[int]:
    """Indices of those that Concept Guard has blackened."""

    def is_withheld(file: Path) -> bool:
        with Image.open(file) as picture:
            return WITHHELD in picture.info

    return frozenset(index for index, file in enumerate(files) if is_withheld(file))


def sample_missing(
    comfyui: ComfyUI, sampling: Sampling, setting: Setting, out: Path, after_batch: Callable[[int], object]
) -> None:
    """Samples the batches of which not every picture is there. Raises ComfyUIError, OSError.

    after_batch: told how many pictures are there that were not.
    """
    files = picture_files(out, sampling, setting)
    remove_parts(files[0].parent, {file.name for file in files})
    for start in range(0, len(files), sampling.batch_size):
        batch = files[start : start + sampling.batch_size]
        missing = sum(not file.is_file() for file in batch)
        if not missing:
            continue
        graph = batch_graph(sampling, setting, start)
        outputs = run_graph(comfyui, graph)["outputs"]
        images = outputs["pictures"]["images"]
        if len(images) != len(batch):
            raise ComfyUIError(
                f"{sampling.checkpoint} drew {len(images)} pictures for {len(batch)} prompts. One picture for each "
                "prompt is needed: models for videos cannot be evaluated."
            )
        withheld = [False] * len(batch)
        if "guard" in graph:
            if "guard" not in outputs:
                raise ComfyUIError(
                    f"ComfyUI at {comfyui.url} does not say which pictures Concept Guard has withheld. Restart it with "
                    f"the newest SAE Eraser. {GO_ON}"
                )
            withheld = outputs["guard"][WITHHELD]
        for file, image, hidden in zip(batch, images, withheld, strict=True):
            picture, note = _fetch(comfyui, image), PngInfo()
            if hidden:
                note.add_text(WITHHELD, str(setting.concept))
            write_atomically(file, functools.partial(picture.save, format="png", pnginfo=note))
        after_batch(missing)


def _fetch(comfyui: ComfyUI, image: dict) -> Image.Image:
    try:
        data = comfyui.fetch("/view?" + urllib.parse.urlencode(image))
    except urllib.error.HTTPError as error:
        raise ComfyUIError(f"ComfyUI at {comfyui.url} does not give out its picture ({error}). {GO_ON}") from error
    return Image.open(io.BytesIO(data)).convert("RGB")  # without the graph that ComfyUI writes into its pictures


def batch_graph(sampling: Sampling, setting: Setting, start: int) -> dict:
    """Samples the batch that starts at this prompt; in ComfyUI's API format."""
    prompts = sampling.prompts[start : start + sampling.batch_size]
    graph: dict = {
        "checkpoint": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": sampling.checkpoint}},
        "sample": {
            "class_type": SAMPLE,
            "inputs": {
                **sampling.inputs,
                "model": ["checkpoint", 0],
                "clip": ["checkpoint", 1],
                "prompts": "\n".join(json.dumps({"prompt": prompt.prompt}) for prompt in prompts),
                "first_seed": sampling.first_seed + start,
            },
        },
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["checkpoint", 2]}},
        "pictures": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
    }
    if setting.concept is not None:
        chosen = {"sae": sampling.sae, "sae.concept": setting.concept, "strength": setting.strength}
        inputs = {**sampling.erasing, **chosen, "model": ["checkpoint", 0]}
        graph["erase"] = {"class_type": ERASE, "inputs": inputs}
        graph["sample"]["inputs"]["model"] = ["erase", 0]
        if sampling.guard:
            _put_behind_guard(graph, sampling.guard, setting.concept)
    return graph


def _put_behind_guard(graph: dict, guard: dict, concept: str) -> None:
    watching = {"model": ["erase", 0], "sae": ["drawn", 0]}
    seen = {"image": ["decode", 0], "watch": ["watch", 1], "latent": ["sample", 0]}
    guarding = {"concepts": concept, "threshold": guard["threshold"], "action": "black"}
    graph["drawn"] = {"class_type": "SAEEraser_LoadSAE", "inputs": {"sae_name": guard["sae"]}}
    graph["watch"] = {"class_type": "SAEEraser_WatchConcepts", "inputs": watching}
    graph["guard"] = {"class_type": GUARD, "inputs": {**seen, **guarding}}
    graph["sample"]["inputs"]["model"] = ["watch", 0]
    graph["pictures"]["inputs"]["images"] = ["guard", 0]
