"""What a classifier says of pictures, kept on disk so that nothing is judged twice."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ...sae_ops.atomic_write import write_atomically
from ...sae_ops.reasons import reason_of

PICTURES_AT_ONCE = 32
NOTHING = "nothing, withheld"
"""Seen in pictures that a guard has blackened."""


@dataclass(frozen=True)
class Judgement:
    """The verdicts on n pictures."""

    classes: dict[str, tuple[str, ...]]
    """By group, the names of the classes."""
    probabilities: dict[str, torch.Tensor]
    """By group, fp32 [n, classes]."""
    features: torch.Tensor | None
    """What the last layer sees, fp32 [n, d], if the classifier tells."""
    withheld: frozenset[int] = frozenset()
    """Indices of pictures that a guard has blackened: whatever the classifier says, they show nothing."""

    def seen(self, group: str) -> list[str]:
        """The likeliest class of every picture, NOTHING of those withheld."""
        classes = [self.classes[group][index] for index in self.probabilities[group].argmax(dim=1).tolist()]
        return [NOTHING if picture in self.withheld else name for picture, name in enumerate(classes)]

    def sure(self) -> dict[str, list[float]]:
        """By group, the probability of that class, 0 of those withheld."""
        highest = {group: values.amax(dim=1).tolist() for group, values in self.probabilities.items()}
        return {
            group: [0.0 if picture in self.withheld else value for picture, value in enumerate(values)]
            for group, values in highest.items()
        }


@dataclass(frozen=True)
class Classifier:
    """Something that judges pictures."""

    name: str
    """As it was asked for."""
    fingerprint: str
    """Changes when it does."""
    judge: Callable[[torch.Tensor], Judgement]
    """uint8 [n, height, width, 3] -> what is in them."""


class ClassifierError(ValueError):
    """The classifier cannot be used; the message says why and what to do."""


def check_classifier(classifier: Classifier, labels: dict[str, list[str]], height: int, width: int) -> Classifier:
    """Tries it on a picture of noise, and returns it as one that has answered so.

    Raises ClassifierError if it cannot judge, or does not know a group or a label of the prompts.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (1, height, width, 3), generator=generator, dtype=torch.uint8)
    try:
        answer = classifier.judge(noise)
    except (RuntimeError, TypeError) as error:
        raise ClassifierError(
            f"The classifier {classifier.name} cannot judge a picture ({reason_of(error)}). Correct its "
            "size, mean and std."
        ) from error
    if not all(values.isfinite().all() for values in answer.probabilities.values()):
        raise ClassifierError(
            f"The classifier {classifier.name} answers NaN. Its weights hold NaN, or its std is 0: choose others."
        )
    classes = answer.classes
    for group, names in labels.items():
        if group not in classes:
            raise ClassifierError(
                f"The classifier {classifier.name} does not judge '{group}', a group of labels in the prompts; it "
                f"judges {', '.join(classes)}. Take the group out of the prompts, or choose another classifier."
            )
        unknown = [name for name in names if name not in classes[group]]
        if unknown:
            raise ClassifierError(
                f"The classifier {classifier.name} has no class '{unknown[0]}' in its group '{group}'; it has "
                f"{', '.join(classes[group])}. Use the same names in the prompts."
            )
        if len(classes[group]) == 1:
            raise ClassifierError(
                f"The classifier {classifier.name} has no class but '{names[0]}' in its group '{group}', so it sees "
                "that in every picture. Give it one for what else there is; CLIP has the labels of the prompts, so "
                "label in this group what the other prompts show."
            )
    return having_answered(classifier, answer)


def having_answered(classifier: Classifier, answer: Judgement) -> Classifier:
    """The classifier with a fingerprint that depends on what it has said of some pictures, too.

    So a function that loads other weights or names than before, or tells other features, is another classifier.
    """
    said = {
        group: [[round(value, 3) for value in row] for row in values.tolist()]
        for group, values in answer.probabilities.items()
    }
    features = None if answer.features is None else [f"{own:.3g}" for own in answer.features.norm(dim=1).tolist()]
    return replace(classifier, fingerprint=fingerprint(classifier.fingerprint, said, answer.classes, features))


def read_pictures(files: Sequence[Path]) -> torch.Tensor:
    """uint8 [n, height, width, 3]. Raises OSError that names a file that is no picture."""
    pictures = []
    for file in files:
        try:
            with Image.open(file) as picture:
                pictures.append(torch.from_numpy(numpy.array(picture.convert("RGB"))))
        except (OSError, SyntaxError) as error:  # Pillow has the latter where a PNG is damaged in between
            raise OSError(f"{file} cannot be read ({error}). Delete it and run the same again.") from error
    return torch.stack(pictures)


def read_in_parts(files: Sequence[Path]) -> Iterator[torch.Tensor]:
    """The same of PICTURES_AT_ONCE files at a time, so that they fit into memory. Raises OSError likewise."""
    for start in range(0, len(files), PICTURES_AT_ONCE):
        yield read_pictures(files[start : start + PICTURES_AT_ONCE])


def judge_files(classifier: Classifier, files: Sequence[Path], verdicts: Path) -> Judgement:
    """Judges the pictures, or reads what this classifier said of them before; `verdicts` is where that is kept."""
    asked = fingerprint(classifier.fingerprint, *files)
    known = _read(verdicts, asked)
    if known is not None:
        return known
    parts = [classifier.judge(pictures) for pictures in read_in_parts(files)]
    judgement = Judgement(
        parts[0].classes,
        {group: torch.cat([part.probabilities[group] for part in parts]) for group in parts[0].classes},
        None if parts[0].features is None else torch.cat([p.features for p in parts if p.features is not None]),
    )
    _write(verdicts, asked, judgement)
    return judgement


def fingerprint(*facts: object) -> str:
    """Of a file (by its content), or of what JSON can hold."""
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(fact.read_bytes() if isinstance(fact, Path) else json.dumps(fact).encode())
        digest.update(b"\0")
    return digest.hexdigest()


def _write(path: Path, asked: str, judgement: Judgement) -> None:
    """asked: fingerprint of the classifier and the pictures."""
    tensors = {f"probabilities.{group}": values.contiguous() for group, values in judgement.probabilities.items()}
    if judgement.features is not None:
        tensors["features"] = judgement.features.contiguous()
    metadata = {"asked": asked, "classes": json.dumps(judgement.classes)}
    write_atomically(path, lambda part: save_file(tensors, part, metadata))


def _read(path: Path, asked: str) -> Judgement | None:
    """None if there is no file, or one that is damaged, of another classifier or of other pictures."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError:
        return None
    if metadata.get("asked") != asked:
        return None
    classes = {group: tuple(names) for group, names in json.loads(metadata["classes"]).items()}
    probabilities = {group: tensors[f"probabilities.{group}"] for group in classes}
    return Judgement(classes, probabilities, tensors.get("features"))
