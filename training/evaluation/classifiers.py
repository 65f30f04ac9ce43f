"""Opens the classifier that --classifier names: a Python function, networks of torchvision or timm, or CLIP."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from .clip_classifier import open_clip
from .judging import Classifier, ClassifierError, Judgement, fingerprint
from .network_classifier import open_networks

CLIP = "clip:"


def open_classifier(name: str, labels: dict[str, list[str]], texts: dict[str, str]) -> Classifier:
    """FILE.py:FUNCTION, FILE.json, or clip:FOLDER_OR_ID. Raises ClassifierError.

    labels: by group, the classes that CLIP is to tell apart; texts: by group, what CLIP compares, with {} for a class.
    """
    if name.startswith(CLIP):
        return open_clip(name, name.removeprefix(CLIP), labels, texts)
    file, colon, function = name.rpartition(":")
    if colon and file.endswith(".py"):
        return _open_function(name, Path(file), function)
    if name.endswith(".json"):
        return open_networks(Path(name))
    raise ClassifierError(
        f"'{name}' is no classifier. Write FILE.py:FUNCTION for a function of your own, FILE.json for networks of "
        f"torchvision or timm, or {CLIP}FOLDER for a CLIP model in the format of transformers."
    )


def shown_name(name: str) -> str:
    """For pages that others see: without the folders that lead to it here; an id on Hugging Face as it is."""
    if not name.startswith(CLIP):
        return Path(name).name
    folder = Path(name.removeprefix(CLIP))
    return CLIP + folder.absolute().name if folder.is_dir() else name


def _open_function(name: str, file: Path, function: str) -> Classifier:
    """A function: uint8 [n, h, w, 3] -> {group: (class names, probabilities [n, classes])}, or that and features."""
    if not file.is_file():
        raise ClassifierError(f"The classifier {file} does not exist. Correct --classifier.")
    found = getattr(_load(file), function, None)
    if not callable(found):
        raise ClassifierError(f"{file} has no function '{function}'. Correct --classifier.")
    return Classifier(name, fingerprint(name, file), lambda pictures: _judge(name, found, pictures))


def _load(file: Path):
    """Runs the file as Python runs a script: what lies beside it can be imported."""
    spec = importlib.util.spec_from_file_location("sae_eraser_classifier", file)
    if spec is None or spec.loader is None:
        raise ClassifierError(f"{file} is no Python file. Correct --classifier.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    sys.path.insert(0, str(file.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ClassifierError(f"The classifier {file} does not load: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(file.resolve().parent))
    return module


def _judge(name: str, function: Callable, pictures: torch.Tensor) -> Judgement:
    try:
        answer = function(pictures)
        groups, features = answer if isinstance(answer, tuple) else (answer, None)
        classes = {group: tuple(names) for group, (names, _) in groups.items()}
        probabilities = {group: torch.as_tensor(values).float().cpu() for group, (_, values) in groups.items()}
        features = None if features is None else torch.as_tensor(features).float().cpu().reshape(len(pictures), -1)
    except Exception as error:
        raise ClassifierError(
            f"The classifier {name} failed: {type(error).__name__}: {error}. Given pictures, uint8 [n, height, width, "
            "3], it must return {group: (class names, probabilities [n, classes])}, or a tuple of that and features "
            "[n, d]."
        ) from error
    for group, values in probabilities.items():
        expected = (len(pictures), len(classes[group]))
        if values.shape != expected:
            raise ClassifierError(
                f"The classifier {name} returned probabilities {list(values.shape)} for '{group}', not "
                f"{list(expected)}: a row for every picture, a column for every class name."
            )
        if not (values.isfinite().all() and values.min() >= 0 and values.max() <= 1.001):
            raise ClassifierError(
                f"The classifier {name} returned numbers for '{group}' that are no probabilities (0 to 1). Apply "
                "softmax to logits."
            )
    if features is not None and not features.isfinite().all():
        raise ClassifierError(
            f"The classifier {name} returned features that are NaN or infinite, so pictures have no distance. Correct "
            "it, or return the probabilities alone."
        )
    return Judgement(classes, probabilities, features)
