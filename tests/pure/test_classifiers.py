"""The classifier that --classifier names: what is opened, functions, and what is said when one cannot be used."""

import sys

import pytest
import torch

from checkout import ROOT
from pure.to_judge import LABELS, PICTURES
from sae_eraser.training.evaluation.classifiers import open_classifier, shown_name
from sae_eraser.training.evaluation.judging import ClassifierError


def test_a_function_may_be_plain_python(brightness):
    said = open_classifier(f"{brightness}:judge", {}, {}).judge(PICTURES)
    shares = PICTURES.double().mean(dim=(1, 2, 3)) / 255
    assert said.classes == {"shade": ("white", "black")}
    assert torch.allclose(said.probabilities["shade"][:, 0].double(), shares)
    assert said.features is not None and said.features.shape == (3, 1)
    assert str(brightness.parent) not in sys.path
    assert open_classifier(f"{brightness}:without_features", {}, {}).judge(PICTURES).features is None


@pytest.mark.parametrize(
    "name, message",
    [
        ("logits", "are no probabilities .0 to 1.. Apply softmax"),
        ("one_row", r"returned probabilities \[1, 1\] for 'shade', not \[3, 1\]"),
        ("endless", "returned features that are NaN or infinite.*Correct it, or return the probabilities alone"),
        ("nothing", "has no function 'nothing'"),
        ("absent", "has no function 'absent'"),
    ],
)
def test_what_a_function_does_wrong_is_said(brightness, name, message):
    with pytest.raises(ClassifierError, match=message):
        open_classifier(f"{brightness}:{name}", {}, {}).judge(PICTURES)


def test_a_function_that_fails_is_named(brightness):
    brightness.write_text("def judge(pictures):\n    return pictures.nonsense\n")
    with pytest.raises(ClassifierError, match="failed: AttributeError.*it must return"):
        open_classifier(f"{brightness}:judge", {}, {}).judge(PICTURES)
    brightness.write_text("import no_such_thing\n")
    with pytest.raises(ClassifierError, match="brightness.py does not load: ModuleNotFoundError"):
        open_classifier(f"{brightness}:judge", {}, {})


def test_a_function_may_use_dataclasses(brightness):
    """Which look for the types of their fields in the module."""
    head = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass Own:\n    x: int\n"
    )
    brightness.write_text(head + brightness.read_text())
    assert open_classifier(f"{brightness}:judge", {}, {}).judge(PICTURES).classes == {"shade": ("white", "black")}


@pytest.mark.parametrize("name", ["resnet50", "model.pth", "judge:judge"])
def test_what_is_no_classifier(name):
    with pytest.raises(ClassifierError, match="is no classifier. Write FILE.py:FUNCTION"):
        open_classifier(name, LABELS, {})


def test_a_shown_name_does_not_tell_where_on_this_computer_it_lies(tmp_path):
    (tmp_path / "someone" / "clip").mkdir(parents=True)
    shown = {"c.json": "c.json", f"{tmp_path}/c.json": "c.json", f"{tmp_path}/own.py:judge": "own.py:judge"}
    shown |= {f"clip:{tmp_path}/someone/clip/": "clip:clip", "clip:openai/clip-vit-base": "clip:openai/clip-vit-base"}
    assert {name: shown_name(name) for name in shown} == shown


def test_the_small_world_is_judged_as_by_its_own_classifier():
    from shapecanvas.classifier import classify, load_classifier
    from shapecanvas.concepts import OBJECTS, STYLES

    pictures = torch.randint(0, 256, (4, 64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    said = open_classifier(f"{ROOT / 'tests' / 'shapecanvas_judge.py'}:judge", {}, {}).judge(pictures)
    objects, styles = classify(load_classifier(), pictures / 255)
    assert said.seen("object") == [OBJECTS[index] for index in objects]
    assert said.seen("style") == [STYLES[index] for index in styles]
