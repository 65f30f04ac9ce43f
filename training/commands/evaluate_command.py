"""`sae-eraser evaluate`: what an SAE takes out of pictures and what it leaves, as a classifier sees it.

ComfyUI samples the pictures and is spoken to over HTTP. Everything sampled and judged is kept, so that the command goes
on where it was stopped.
"""

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from ..comfyui.node_options import SAMPLING, add_node_options, option_of
from ..comfyui.server import ComfyUI, add_comfyui_options, chosen_comfyui
from ..evaluation.classifiers import open_classifier, shown_name
from ..evaluation.judging import (
    PICTURES_AT_ONCE,
    Classifier,
    Judgement,
    check_classifier,
    having_answered,
    judge_files,
    read_pictures,
)
from ..evaluation.pictures import ORIGINAL, Sampling, Setting, picture_files, sample_missing, withheld_pictures
from ..evaluation.result_page import write_page
from ..evaluation.result_text import definitions, table_rows, write_results
from ..evaluation.results import Results, measure_erasure, measure_originals, picture_changes
from ..evaluation.settings import ERASING, GUARDING, choose_concepts, keep_settings, read_sampling
from ..progress import progress_bar
from ..prompts import label_groups, read_prompts, read_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describes `evaluate` and adds the options it takes."""
    parser.description = (
        "Samples labelled prompts in a ComfyUI without and with every erasure, from the same seeds, and "
        "lets a classifier judge the pictures. Options of sampling, erasing and the guard that are not given have the "
        "defaults of the nodes Sample Prompts, Erase Concept and Concept Guard, which their help pages list. Run again "
        "after a stop, it goes on where it was."
    )
    parser.add_argument("--checkpoint", required=True, metavar="NAME", help="file in ComfyUI's models/checkpoints")
    parser.add_argument("--sae", required=True, metavar="NAME", help="file in ComfyUI's models/sae")
    parser.add_argument("--prompts", required=True, type=Path, metavar="FILE", help="JSON lines, or CSV with a header")
    parser.add_argument(
        "--classifier",
        required=True,
        metavar="C",
        help="what judges the pictures: FILE.py:FUNCTION, FILE.json (networks of torchvision or timm), clip:FOLDER or "
        "clip:ID (a CLIP model)",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FOLDER", help="folder for the pictures and the results"
    )
    parser.add_argument(
        "--concepts",
        nargs="+",
        metavar="NAME",
        help="concepts to erase, one at a time (default: all of the SAE that the prompts name)",
    )
    parser.add_argument(
        "--strengths",
        nargs="+",
        type=float,
        default=[1.0],
        metavar="S",
        help="strengths to try for each concept (default: 1)",
    )
    parser.add_argument(
        "--guard",
        metavar="NAME",
        help="file in ComfyUI's models/sae for Concept Guard, which then stands behind every erasure",
    )
    parser.add_argument("--seeds", type=int, default=1, help="number of pictures of every prompt (default: 1)")
    parser.add_argument(
        "--first-seed", type=int, default=0, help="seed of the first picture; the next has the next seed (default: 0)"
    )
    parser.add_argument("--batch-size", type=int, default=4, help="number of pictures sampled at once (default: 4)")
    parser.add_argument(
        "--confidence",
        type=float,
        default=0.5,
        help="probability, 0 to 1, that one class must reach, or the picture counts as broken (default: 0.5)",
    )
    parser.add_argument(
        "--clip-text",
        nargs="+",
        default=[],
        metavar="GROUP=TEXT",
        help='text that CLIP compares pictures with, by group, {} being the concept\'s name, e.g. mood="a {} scene" '
        '(default: "a picture of {}", for the group style "a picture in {} style")',
    )
    add_node_options(parser, SAMPLING)
    add_node_options(parser, ERASING)
    add_node_options(parser, GUARDING)
    add_comfyui_options(parser)


def run(options: argparse.Namespace) -> None:
    """Writes evaluation.json, .md and .html. Raises ComfyUIError, also after Ctrl-C; ValueError; OSError."""
    _check_numbers(options)
    prompts = read_prompts(read_text(options.prompts)) * options.seeds
    groups = label_groups(prompts)
    if not groups:
        raise ValueError(f"The prompts of {options.prompts} have no labels, so nothing says what should be seen.")
    classifier = open_classifier(options.classifier, groups, _texts(options.clip_text, groups))
    with chosen_comfyui(options) as comfyui:
        concepts = choose_concepts(comfyui, options.sae, options.concepts, groups)
        sampling = read_sampling(comfyui, options, prompts)
        classifier = check_classifier(classifier, groups, sampling.inputs["height"], sampling.inputs["width"])
        keep_settings(comfyui, options.out, sampling)
        settings = [Setting(concept, strength) for concept in concepts for strength in dict.fromkeys(options.strengths)]
        results = _run(comfyui, options.out, sampling, settings, classifier, options.confidence)
    for row in (["group", "concept", "strength", *definitions(results)], *table_rows(results.erasures)):
        print(" ".join(f"{cell:<10}" for cell in row).rstrip())
    print(f"Table: {options.out / 'evaluation.md'}  Pictures: {options.out / 'evaluation.html'}")


def _run(
    comfyui: ComfyUI, out: Path, sampling: Sampling, settings: list[Setting], classifier: Classifier, confidence: float
) -> Results:
    """Samples and judges one setting after the other; the results are written after each."""
    with _Progress(out, sampling, [ORIGINAL, *settings]) as progress:
        judgements: dict[Setting, Judgement] = {}

        def sampled(setting: Setting) -> list[Path]:
            sample_missing(comfyui, sampling, setting, out, lambda drawn: progress.show(setting, drawn))
            return picture_files(out, sampling, setting)

        def judged(setting: Setting) -> Judgement:
            files = sampled(setting)
            said = judge_files(classifier, files, out / "judged" / f"{setting.name}.safetensors")
            return replace(said, withheld=withheld_pictures(files))

        some = sampled(ORIGINAL)[:: math.ceil(len(sampling.prompts) / PICTURES_AT_ONCE)]
        classifier = having_answered(classifier, classifier.judge(read_pictures(some)))
        originals = judgements[ORIGINAL] = judged(ORIGINAL)
        judge = shown_name(classifier.name)
        results = measure_originals(sampling, judge, confidence, len(settings), originals)
        for setting in settings:
            erased, changes = judged(setting), picture_changes(out, sampling, setting)
            results.erasures.append(measure_erasure(results, setting, originals, erased, changes))
            judgements[setting] = replace(erased, features=None)  # of all settings they may not fit into memory
            write_results(out, results)
            write_page(out, results, judgements)
    return results


class _Progress:
    """A bar over all pictures of all settings, with the time that is left."""

    def __init__(self, out: Path, sampling: Sampling, settings: list[Setting]):
        files = {setting: picture_files(out, sampling, setting) for setting in settings}
        self._total = sum(map(len, files.values()))
        self._done = self._before = sum(file.is_file() for own in files.values() for file in own)
        self._bar, self._started = progress_bar(self._total), time.monotonic()

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *error) -> None:
        self._bar.close()

    def show(self, setting: Setting, drawn: int) -> None:
        """drawn: how many pictures of the setting have come."""
        self._done += drawn
        done, total = self._done, self._total
        left = (time.monotonic() - self._started) / max(1, done - self._before) * (total - done)
        self._bar.n = done
        self._bar.set_description_str(
            f"{done} of {total} pictures, {tqdm.format_interval(round(left))} left ({setting})"
        )


def _check_numbers(options: argparse.Namespace) -> None:
    for strength in options.strengths:
        if not (math.isfinite(strength) and (strength > 0 or strength == 0 and options.guard)):
            raise ValueError(
                f"--strengths must be above 0, not {strength:g}: at 0 nothing is erased. With a --guard 0 is the guard "
                "alone."
            )
        if strength != float(f"{strength:g}"):
            raise ValueError(
                f"--strengths {strength} has more than the six digits by which results are told apart. Write "
                f"{strength:g}, or another one."
            )
    if options.threshold is not None and not options.guard:
        raise ValueError("--threshold is that of a guard. Name its SAE with --guard.")
    for name in ("seeds", "batch_size"):
        if getattr(options, name) < 1:
            raise ValueError(f"{option_of(name)} must be at least 1.")
    if not 0 < options.confidence <= 1:
        raise ValueError(f"--confidence must be above 0 and at most 1, not {options.confidence:g}.")


def _texts(given: list[str], groups: dict[str, list[str]]) -> dict[str, str]:
    texts = {}
    for entry in given:
        group, equals, text = entry.partition("=")
        if not equals or "{}" not in text or group not in groups:
            raise ValueError(
                f"--clip-text {entry}: write GROUP=TEXT with a group of the prompts ({', '.join(groups)}) and {{}} in "
                "the text where the concept's name goes."
            )
        texts[group] = text
    return texts
