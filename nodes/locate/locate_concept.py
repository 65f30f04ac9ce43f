"""Locate Concept: at which blocks of the model a concept is decided, to know where to collect and erase."""

from pathlib import Path

import comfy.samplers
import torch
from comfy_api.latest import io, ui

from ...sae_ops.atomic_write import write_atomically
from ...sae_ops.hookpoints import list_hookpoints
from ...sae_ops.moved import judge_moved
from ...sae_ops.sae_file import HOOKED_TENSORS
from ..files.fingerprints import changes_since, note_left
from ..files.output_paths import output_path
from ..hooks.block_hooks import model_family
from ..hooks.noise_levels import sigma_range
from ..pictures import as_tensor
from ..sample.sampling_inputs import first_seed_input, sampling_inputs
from ..sample.sampling_progress import SamplingProgress
from .exchanging import Exchange, PairSampler, partners
from .locate_inputs import Range, choose_hookpoints, read_pairs, read_ranges
from .locate_report import picture, table
from .locate_results import Exchanged, LocateResults
from .locating import locate, most_exchanges


class LocateConcept(io.ComfyNode):
    """Exchanges blocks between pictures that differ in the concept alone, and measures how often it moves along."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAEEraser_LocateConcept",
            display_name="Locate Concept",
            category="model/SAE Eraser",
            description="Says at which blocks a concept is decided: where to collect activations, and which blocks "
            "together a concept cannot slip past. Goes on where it was stopped.",
            search_aliases=["find block", "hookpoint", "activation patching", "causal tracing", "interchange"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model in which the concept is looked for."),
                io.Clip.Input("clip", tooltip="Text encoder of the model."),
                io.String.Input(
                    "pairs",
                    multiline=True,
                    default="a star in neon style | a circle in neon style",
                    tooltip="Two prompts a line that differ in the concept alone, with a | between them. A dozen "
                    "different lines tell more than one line with many seeds.",
                ),
                io.String.Input(
                    "hookpoints",
                    default="attentions",
                    tooltip="Blocks to exchange, separated by commas: names such as up_blocks.1.attentions.1, or parts "
                    "of names such as attentions, up_blocks or transformer_blocks, for all that have it.",
                ),
                io.String.Input(
                    "ranges",
                    default="0-1, 0-0.33, 0.33-0.66, 0.66-1",
                    tooltip="When to exchange: shares of the sampling, as start_percent and end_percent of Erase "
                    "Concept. Combinations of blocks are tried in the first of them.",
                ),
                io.String.Input(
                    "name", default="my_concept", tooltip="Results go to output/sae_locate/NAME.json, .md and .png."
                ),
                io.Int.Input("seeds", default=2, min=1, max=10_000, tooltip="Number of noises for every pair."),
                first_seed_input("Seed of the first noise; the next has the next seed.", advanced=True),
                *sampling_inputs(
                    steps=20,
                    about_samplers="Sampler that makes the pictures. Choose one that draws no noise of its own, so "
                    "that both pictures of a pair keep the same noise.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=2,
                    min=1,
                    max=256,
                    tooltip="Number of pairs sampled at once, as four pictures each.",
                ),
                io.Int.Input(
                    "combine",
                    default=3,
                    min=1,
                    max=6,
                    tooltip="Largest number of blocks that are exchanged together, adding the best one at a time, "
                    "until the concept cannot slip past. 1 tries no combinations.",
                ),
                io.Combo.Input(
                    "hooked",
                    options=list(HOOKED_TENSORS),
                    default="output",
                    advanced=True,
                    tooltip="What is exchanged: the block's output, or only what the block adds, output minus input "
                    "(residual). Choose what the SAE will be trained on.",
                ),
            ],
            outputs=[
                io.Image.Output("picture", tooltip="A heat map: hookpoints x ranges, and the best combinations."),
                io.String.Output("table", tooltip="The numbers of the picture, in Markdown."),
                io.String.Output("json", tooltip="Every measurement, picture by picture."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, name=None, **kwargs):
        """Changes if the results are not as the node has left them. A name that another node computes is None here."""
        files = result_files(name) if name else ()
        return [change for file in files for change in changes_since(file, {})]

    @classmethod
    def execute(
        cls,
        model,
        clip,
        pairs,
        hookpoints,
        ranges,
        name,
        seeds,
        first_seed,
        batch_size,
        combine,
        hooked,
        **sampling,
    ) -> io.NodeOutput:
        if sampling["cfg"] <= 0:
            raise ValueError(f"cfg must be above 0, but is {sampling['cfg']:g}: at 0 a prompt changes nothing.")
        every = read_pairs(pairs)
        parts = read_ranges(ranges)
        points = {
            point.name: point for point in choose_hookpoints(hookpoints, list_hookpoints(model.model.diffusion_model))
        }
        path, text_file, picture_file = files = result_files(name)
        noises = [seed for seed in range(first_seed, first_seed + seeds) for _ in every]
        most = most_exchanges(len(points), len(parts), combine)
        settings = {
            "model_family": model_family(model),
            "pairs": [list(pair) for pair in every],
            "first_seed": first_seed,
            "seeds": seeds,
            "hooked": hooked,
            **sampling,
        }
        _check_ranges(model, parts, sampling)
        results = LocateResults(path, settings)
        with SamplingProgress(path.stem, getattr(cls.hidden, "unique_id", None)) as progress:
            sampler = PairSampler(clip, every * seeds, noises, batch_size, sampling, most, progress)
            originals = sampler.originals(model)
            _check_originals(originals, every)
            results.start(originals)
            errors, swapped_errors = sampler.errors(model, originals)
            recognised = (errors < swapped_errors).double().mean().item()

            def measure(names: tuple[str, ...], when: Range) -> Exchanged:
                known = results.get(names, when)
                if known:
                    sampler.leave_out()
                    return known
                exchange = Exchange(*sigma_range(model, when.start, when.end))
                latents = sampler.exchanged(model, [points[name] for name in names], hooked, exchange)
                if not exchange.sigmas:
                    raise _no_step_in(when)
                moved = judge_moved(*sampler.errors(model, latents), errors, partners(errors))
                measurement = Exchanged(names, when, (max(exchange.sigmas), min(exchange.sigmas)), moved)
                results.add(measurement)
                return measurement

            located = locate(measure, list(points), parts, combine)
        text, drawn = table(located, len(originals), recognised), picture(located)
        write_atomically(text_file, lambda part: part.write_text(text))
        write_atomically(picture_file, lambda part: drawn.save(part, "PNG"))
        for file in files:
            note_left(file, {})
        image = as_tensor(drawn)
        shown = ui.PreviewImage(image, cls=cls).as_dict() | ui.PreviewText(text).as_dict()
        return io.NodeOutput(image, text, results.json(), ui=shown)


def result_files(name: str) -> tuple[Path, Path, Path]:
    """output/sae_locate/NAME.json, .md and .png. Raises ValueError if the name would lead out of it."""
    path = output_path("sae_locate", name, "results")
    results, text, picture = (path.with_name(path.name + ending) for ending in (".json", ".md", ".png"))
    return results, text, picture


def _check_ranges(model, ranges: list[Range], sampling: dict) -> None:
    """Raises ValueError, before any picture is sampled, if no step of the sampler lies in one of the ranges."""
    names = sampling["sampler_name"], sampling["scheduler"]
    levels = comfy.samplers.KSampler(model, sampling["steps"], model.load_device, *names).sigmas[:-1].tolist()
    for when in ranges:
        start, end = sigma_range(model, when.start, when.end)
        if not any(end <= level <= start for level in levels):
            raise _no_step_in(when)


def _no_step_in(when: Range) -> ValueError:
    return ValueError(f"No step of the sampler lies in {when} of the sampling. Widen it, or add steps.")


def _check_originals(originals: torch.Tensor, pairs: list[tuple[str, str]]) -> None:
    """Raises ValueError if the model draws NaN, or the same picture for both prompts of a pair."""
    if not torch.isfinite(originals).all():
        raise ValueError(
            "The model draws NaN or infinity; the model or its precision is at fault. Start ComfyUI with --fp32-unet, "
            "or choose another checkpoint."
        )
    distances = (originals - partners(originals)).flatten(1).norm(dim=1)
    lengths = originals.flatten(1).norm(dim=1)
    for place in (distances < 1e-3 * lengths).nonzero().flatten().tolist():
        first, second = pairs[place % len(pairs)]
        raise ValueError(f"The model draws the same picture for '{first}' and '{second}'. Take that pair out.")
