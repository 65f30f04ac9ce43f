"""What an evaluation is about: which concepts, and what its pictures depend on."""

import argparse
import json
import urllib.error
from dataclasses import asdict
from pathlib import Path

from ...sae_ops.atomic_write import write_atomically
from ..comfyui.node_options import SAMPLING, NodeOptions, given_inputs
from ..comfyui.server import ComfyUI, ComfyUIError, default_inputs, node_schema
from ..prompts import LabelledPrompt
from .pictures import ERASE, GUARD, ORIGINAL, SAMPLE, Sampling
from .scores import labels_of

ERASING: NodeOptions = {
    "mode": (str, "how Erase Concept edits: turn, scale, ablate, clamp, replace or paper_compat"),
    "branch": (str, "half of guidance that it edits: cond, uncond or both"),
    "start_percent": (float, "share of the sampling, 0 to 1, from which on it erases"),
    "end_percent": (float, "share of the sampling, 0 to 1, up to which it erases"),
}
"""Inputs of Erase Concept that are options."""
GUARDING: NodeOptions = {
    "threshold": (float, "score above which Concept Guard withholds a picture"),
}
"""Inputs of Concept Guard that are options."""


def choose_concepts(comfyui: ComfyUI, sae: str, wanted: list[str] | None, groups: dict[str, list[str]]) -> list[str]:
    """The wanted concepts, or all that the SAE and the prompts share, as the SAE lists them.

    Raises ValueError if one cannot be evaluated.
    groups: the labels of the prompts, by group.
    """
    installed = _installed_concepts(comfyui, sae)
    for concept in wanted or ():
        if concept not in installed:
            raise ValueError(f"{sae} has no concept '{concept}'; it has {', '.join(installed)}.")
        if not labels_of(groups, concept):
            raise ValueError(f"No prompt is labelled '{concept}'. Add prompts that ask for it.")
    chosen = [concept for concept in dict.fromkeys(wanted or installed) if labels_of(groups, concept)]
    if not chosen:
        labels = ", ".join(name for names in groups.values() for name in names)
        raise ValueError(
            f"None of the concepts of {sae} ({', '.join(installed)}) is a label of the prompts ({labels}). Use the "
            "SAE's names as labels, and where it lists 'group: name' its groups as well."
        )
    twice = [concept for concept in chosen if len(labels_of(groups, concept)) > 1]
    if twice:
        raise ValueError(f"'{twice[0]}' is a label of several groups. Give it another name in all but one of them.")
    return chosen


def _installed_concepts(comfyui: ComfyUI, sae: str) -> list[str]:
    """The concepts of the SAE as Erase Concept lists them. Raises ComfyUIError if it is not installed."""
    options = node_schema(comfyui, ERASE)["input"]["required"]["sae"][1]["options"]
    inputs = {option["key"]: option["inputs"] for option in options}
    if sae not in inputs:
        raise ComfyUIError(
            f"ComfyUI at {comfyui.url} has no SAE '{sae}'. Put the file into its models/sae; it has "
            f"{', '.join(inputs)}."
        )
    kind, facts = inputs[sae]["required"]["concept"]
    return kind if isinstance(kind, list) else facts["options"]


def read_sampling(comfyui: ComfyUI, options: argparse.Namespace, prompts: list[LabelledPrompt]) -> Sampling:
    """What the pictures depend on: the options, else the nodes' defaults."""

    def inputs(node: str, table: NodeOptions) -> dict:
        defaults = default_inputs(node_schema(comfyui, node))
        return {name: defaults[name] for name in table} | given_inputs(options, table)

    return Sampling(
        options.checkpoint,
        options.sae,
        prompts,
        options.first_seed,
        options.batch_size,
        inputs(SAMPLE, SAMPLING),
        inputs(ERASE, ERASING),
        {"sae": options.guard, **inputs(GUARD, GUARDING)} if options.guard else None,
    )


def keep_settings(comfyui: ComfyUI, out: Path, sampling: Sampling) -> None:
    """Notes what the pictures depend on. Raises ValueError if the folder holds pictures of something else.

    The originals do not depend on how is erased: after an erasure that ComfyUI refused they are of use to the next.
    """
    files = [("checkpoints", sampling.checkpoint), ("sae", sampling.sae)]
    if sampling.guard:
        files.append(("sae", sampling.guard["sae"]))
    stamps = {f"file {folder}/{name}": _stamp(comfyui, folder, name) for folder, name in files}
    now = json.loads(json.dumps(asdict(sampling) | stamps))
    path = out / "sampling.json"
    before = _kept(path)
    changed = [name for name in now if before.get(name) != now[name]]
    drawn = {picture.parent.name for picture in (out / "pictures").glob("*/*.png")}
    of_erasing = {"sae", "erasing", "guard", *stamps} - {f"file checkpoints/{sampling.checkpoint}"}
    mixed = [name for name in changed if name not in of_erasing or drawn != {ORIGINAL.name}]
    if drawn and mixed:
        raise ValueError(
            f"{out} holds pictures that were sampled with other settings ({', '.join(mixed)}). "
            "Choose another folder for --out, or delete this one."
        )
    if changed:
        write_atomically(path, lambda part: part.write_text(json.dumps(now, indent=2), encoding="utf-8"))


def _kept(path: Path) -> dict:
    """What was noted; nothing if that is gone or damaged, so that no picture counts as sampled with what is asked."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _stamp(comfyui: ComfyUI, folder: str, name: str) -> list:
    """Size and time of change of a model's file, as ComfyUI knows them."""
    try:
        files: list[dict] = list(comfyui.request(f"/experiment/models/{folder}"))
    except urllib.error.HTTPError:  # a ComfyUI that does not tell
        return []
    return [[file.get("size"), file.get("modified")] for file in files if file.get("name") == name]
