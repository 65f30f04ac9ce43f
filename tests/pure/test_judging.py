"""What classifiers say: checked before anything is sampled, kept on disk, and judged anew if anything has changed."""

import numpy
import pytest
import torch
from PIL import Image

from pure.to_judge import BRIGHTNESS, PICTURES
from sae_eraser.sae_ops.reasons import reason_of
from sae_eraser.training.evaluation import judging
from sae_eraser.training.evaluation.classifiers import open_classifier
from sae_eraser.training.evaluation.judging import (
    Classifier,
    ClassifierError,
    Judgement,
    check_classifier,
    judge_files,
    read_pictures,
)
from sae_eraser.training.evaluation.pictures import ORIGINAL, Sampling, Setting, picture_files
from sae_eraser.training.evaluation.results import picture_changes
from sae_eraser.training.prompts import LabelledPrompt


def test_labels_that_the_classifier_does_not_know(brightness):
    classifier = open_classifier(f"{brightness}:judge", {}, {})
    check_classifier(classifier, {"shade": ["black"]}, 8, 8)
    with pytest.raises(ClassifierError, match="no class 'grey' in its group 'shade'; it has white, black"):
        check_classifier(classifier, {"shade": ["black", "grey"]}, 8, 8)
    with pytest.raises(ClassifierError, match="does not judge 'mood'.*it judges shade"):
        check_classifier(classifier, {"mood": ["calm"]}, 8, 8)


def test_an_error_without_a_message_is_named_by_its_kind():
    def judge(pictures):
        raise RuntimeError

    with pytest.raises(ClassifierError, match=r"mine cannot judge a picture \(RuntimeError\)"):
        check_classifier(Classifier("mine", "", judge), {}, 8, 8)


def test_an_error_whose_first_line_announces_the_next_is_told_with_it():
    assert reason_of(RuntimeError("Error(s) in loading:\n\tsize mismatch for head.\n\tand more")) == (
        "Error(s) in loading: size mismatch for head."
    )
    assert reason_of(ValueError("damaged\nat byte 3")) == "damaged"
    assert reason_of(ValueError("nothing follows:")) == "nothing follows:"


def test_one_class_alone_would_be_seen_in_every_picture(brightness):
    classifier = open_classifier(f"{brightness}:one_row", {}, {})
    with pytest.raises(ClassifierError, match="no class but 'white' in its group 'shade', so it sees that in every"):
        check_classifier(classifier, {"shade": ["white"]}, 8, 8)


def test_a_function_with_other_weights_is_another_classifier(tmp_path):
    """Its file stays the same."""
    (tmp_path / "weighs.py").write_text(
        "from pathlib import Path\nimport torch\n\n"
        "def judge(pictures):\n"
        "    share = float(Path(__file__).with_name('weights').read_text())\n"
        "    return {'shade': (('white', 'black'), torch.tensor([[share, 1 - share]] * len(pictures)))}\n"
    )
    found = []
    for share in ("0.9", "0.9", "0.1"):
        (tmp_path / "weights").write_text(share)
        classifier = open_classifier(f"{tmp_path / 'weighs.py'}:judge", {}, {})
        found.append(check_classifier(classifier, {"shade": ["black"]}, 8, 8).fingerprint)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    "first, second", [("'a', 'b'], None", "'b', 'a'], None"), ("'a', 'b'], None", "'a', 'b'], 1.0")], ids=str
)
def test_a_function_with_other_names_or_features_is_another_classifier(tmp_path, first, second):
    """Its file stays the same, and so do the probabilities."""
    (tmp_path / "reads.py").write_text(
        "from pathlib import Path\n\n"
        "def judge(pictures):\n"
        "    names, features = eval(Path(__file__).with_name('names').read_text())\n"
        "    return {'mood': (names, [[0.9, 0.1]] * len(pictures))}, features and [features] * len(pictures)\n"
    )
    found = []
    for said in (first, first, second):
        (tmp_path / "names").write_text(f"[{said}")
        classifier = open_classifier(f"{tmp_path / 'reads.py'}:judge", {}, {})
        found.append(check_classifier(classifier, {"mood": ["a"]}, 8, 8).fingerprint)
    assert found[0] == found[1] != found[2]


def test_nothing_is_judged_twice(tmp_path, brightness):
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for file, picture in zip(files, PICTURES, strict=True):
        Image.fromarray(picture.numpy()).save(file)
    assert torch.equal(read_pictures(files), PICTURES)
    verdicts = tmp_path / "judged" / "original.safetensors"
    first = judge_files(open_classifier(f"{brightness}:judge", {}, {}), files, verdicts)
    stamp = verdicts.stat().st_mtime_ns
    again = judge_files(open_classifier(f"{brightness}:judge", {}, {}), files, verdicts)
    assert verdicts.stat().st_mtime_ns == stamp
    assert same(first, again)
    brightness.write_text(BRIGHTNESS.replace("/ 255", "/ 510"))
    other = judge_files(open_classifier(f"{brightness}:judge", {}, {}), files, verdicts)
    assert numpy.allclose(other.probabilities["shade"][:, 0], first.probabilities["shade"][:, 0] / 2)
    assert len(judge_files(open_classifier(f"{brightness}:judge", {}, {}), files[:2], verdicts).seen("shade")) == 2


def test_damaged_verdicts_are_made_anew_and_a_damaged_picture_is_named(tmp_path, brightness):
    classifier, files = open_classifier(f"{brightness}:judge", {}, {}), [tmp_path / "0.png"]
    Image.new("RGB", (64, 64), (255,) * 3).save(files[0])
    verdicts = tmp_path / "judged" / "original.safetensors"
    first = judge_files(classifier, files, verdicts)
    verdicts.write_bytes(verdicts.read_bytes()[:20])
    assert same(judge_files(classifier, files, verdicts), first)
    files[0].write_bytes(files[0].read_bytes()[:-30])
    with pytest.raises(OSError, match="0.png cannot be read.*Delete it and run the same again"):
        read_pictures(files)


def test_a_picture_that_is_damaged_in_the_middle_is_named(tmp_path):
    """As by a disk that has lost a block of it."""
    noise = numpy.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=numpy.uint8)
    Image.fromarray(noise).save(tmp_path / "0.png")
    content = bytearray((tmp_path / "0.png").read_bytes())
    second = content.index(b"IDAT", content.index(b"IDAT") + 4)
    content[second - 512 : second + 512] = bytes(1024)
    (tmp_path / "0.png").write_bytes(content)
    with pytest.raises(OSError, match="0.png cannot be read.*Delete it and run the same again"):
        read_pictures([tmp_path / "0.png"])


def test_other_pictures_under_the_same_names_are_judged_anew(tmp_path, brightness):
    classifier = open_classifier(f"{brightness}:judge", {}, {})
    file, verdicts = tmp_path / "0.png", tmp_path / "judged" / "original.safetensors"
    for shade, seen in ((255, "white"), (0, "black")):
        Image.new("RGB", (8, 8), (shade,) * 3).save(file)
        assert judge_files(classifier, [file], verdicts).seen("shade") == [seen]


def test_of_many_pictures_each_has_its_own_verdict_and_its_own_change(tmp_path, brightness, monkeypatch):
    """They are read a few at a time."""
    monkeypatch.setattr(judging, "PICTURES_AT_ONCE", 2)
    sampling, erased = Sampling("c", "mine", [LabelledPrompt("", {})] * 5, 0, 4, {}, {}), Setting("star", 1.0)
    for setting, step in ((ORIGINAL, 51), (erased, 0)):
        for shade, file in enumerate(picture_files(tmp_path, sampling, setting)):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (shade * step,) * 3).save(file)
    files = picture_files(tmp_path, sampling, ORIGINAL)
    said = judge_files(open_classifier(f"{brightness}:judge", {}, {}), files, tmp_path / "judged" / "original")
    assert said.probabilities["shade"][:, 0].tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert picture_changes(tmp_path, sampling, erased) == pytest.approx([0, 20, 40, 60, 80])


def same(first: Judgement, second: Judgement) -> bool:
    return (
        first.classes == second.classes
        and torch.equal(first.probabilities["shade"], second.probabilities["shade"])
        and first.features is not None
        and second.features is not None
        and torch.equal(first.features, second.features)
    )
