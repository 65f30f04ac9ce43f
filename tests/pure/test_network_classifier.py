"""Classifiers that are networks of torchvision, and what is said when one cannot be used."""

import json
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pure.to_judge import LABELS, PICTURES
from sae_eraser.training.evaluation.classifiers import open_classifier
from sae_eraser.training.evaluation.judging import ClassifierError, check_classifier


def write_network(folder, saved_as=save_file, name="mobilenet_v3_small"):
    """A torchvision network of random weights for objects, and its JSON."""
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None, num_classes=2)
    saved_as(network.state_dict(), folder / "weights")
    facts = {"model": f"torchvision/{name}", "weights": "weights", "classes": ["star", "ring"], "size": 32}
    (folder / "c.json").write_text(json.dumps({"object": facts}))
    return network.eval()


def test_a_network_of_torchvision(tmp_path):
    network = write_network(tmp_path)
    said = open_classifier(str(tmp_path / "c.json"), LABELS, {}).judge(PICTURES)
    scaled = nn.functional.interpolate(PICTURES.movedim(-1, 1) / 255, (32, 32), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        logits = network((scaled.clamp(0, 1) - mean) / std)
    assert torch.allclose(said.probabilities["object"], logits.softmax(dim=1), atol=1e-5)
    assert said.features is not None
    rebuilt = said.features @ network.classifier[-1].weight.T + network.classifier[-1].bias
    assert torch.allclose(rebuilt, logits, atol=1e-4), "the features are what the last layer sees"


def test_weights_that_a_training_saved(tmp_path):
    network = write_network(tmp_path)
    before = open_classifier(str(tmp_path / "c.json"), LABELS, {}).judge(PICTURES)
    torch.save({"epoch": 3, "model_state_dict": network.state_dict()}, tmp_path / "weights")
    after = open_classifier(str(tmp_path / "c.json"), LABELS, {}).judge(PICTURES)
    assert torch.equal(before.probabilities["object"], after.probabilities["object"])


def test_a_pickle_that_runs_something_is_refused(tmp_path):
    class Runs:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    write_network(tmp_path, lambda state, path: torch.save({"x": Runs()}, path))
    with pytest.raises(ValueError, match="Nothing of it was run"):
        open_classifier(str(tmp_path / "c.json"), LABELS, {})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model": "torchvision/resnet0"}, "torchvision has no usable model 'resnet0'"),
        ({"model": "keras/x"}, "'keras/x' is no network. Write torchvision/NAME or timm/NAME"),
        ({"classes": ["star"]}, "weights does not fit torchvision/mobilenet_v3_small with 1 classes: size mismatch"),
    ],
)
def test_a_network_that_cannot_be_made(tmp_path, change, message):
    write_network(tmp_path)
    facts = json.loads((tmp_path / "c.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps({"object": facts["object"] | change}))
    with pytest.raises(ClassifierError, match=message):
        open_classifier(str(tmp_path / "c.json"), LABELS, {})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model": 5}, "c.json cannot be read .*Write for example"),
        ({"weights": ["weights"]}, "c.json cannot be read .*Write for example"),
        ({"classes": 2}, "c.json cannot be read .*Write for example"),
        ({"mean": 0.5}, "c.json cannot be read .*Write for example"),
        ({"mean": [0.5]}, "c.json cannot judge a picture .*Correct its size, mean and std"),
        ({"size": "32"}, "c.json cannot judge a picture .*Correct its size, mean and std"),
        ({"std": [0, 0, 0]}, "c.json answers NaN"),
    ],
)
def test_a_description_of_the_wrong_kind_is_said_before_anything_is_sampled(tmp_path, change, message):
    write_network(tmp_path)
    facts = json.loads((tmp_path / "c.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps({"object": facts["object"] | change}))
    with pytest.raises(ClassifierError, match=message):
        check_classifier(open_classifier(str(tmp_path / "c.json"), LABELS, {}), LABELS, 32, 32)


def test_a_network_without_a_linear_layer_at_its_end(tmp_path):
    write_network(tmp_path, name="squeezenet1_1")
    with pytest.raises(ClassifierError, match="squeezenet1_1 does not end in a linear layer"):
        open_classifier(str(tmp_path / "c.json"), LABELS, {})


@pytest.mark.parametrize("text", ["{", "[]", '{"object": {"model": "torchvision/resnet18"}}'])
def test_a_description_that_is_none(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ClassifierError, match="c.json.*Write for example"):
        open_classifier(str(tmp_path / "c.json"), LABELS, {})


def test_torchvision_is_not_installed(tmp_path, monkeypatch):
    write_network(tmp_path)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ClassifierError, match="needs torchvision: pip install torchvision"):
        open_classifier(str(tmp_path / "c.json"), LABELS, {})
