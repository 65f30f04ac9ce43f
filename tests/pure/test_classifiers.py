"""The classifiers that --classifier opens: functions, networks, CLIP; and what is said when one cannot be used."""

import json
import sys

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from checkout import ROOT
from comfy_server import COMFYUI
from sae_eraser.training.evaluation import judging
from sae_eraser.training.evaluation.classifiers import open_classifier, shown_name
from sae_eraser.training.evaluation.judging import (
    ClassifierError,
    Judgement,
    check_classifier,
    judge_files,
    read_pictures,
)
from sae_eraser.training.evaluation.pictures import ORIGINAL, Sampling, Setting, picture_files
from sae_eraser.training.evaluation.results import picture_changes
from sae_eraser.training.prompts import LabelledPrompt

LABELS = {"object": ["star", "ring"], "style": ["neon", "dots"]}
PICTURES = torch.randint(0, 256, (3, 40, 56, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
BRIGHTNESS = """
import beside

def judge(pictures):
    white = pictures.numpy().reshape(len(pictures), -1).mean(axis=1) / 255
    return {"shade": (beside.NAMES, list(zip(white, 1 - white)))}, white

def without_features(pictures):
    return judge(pictures)[0]

def logits(pictures):
    return {"shade": (["white"], [[7.0]] * len(pictures))}

def one_row(pictures):
    return {"shade": (["white"], [[1.0]])}

nothing = 3
"""


@pytest.fixture
def brightness(tmp_path):
    (tmp_path / "brightness.py").write_text(BRIGHTNESS)
    (tmp_path / "beside.py").write_text("NAMES = ['white', 'black']\n")
    yield tmp_path / "brightness.py"
    sys.modules.pop("beside", None)


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


@pytest.mark.parametrize("name", ["resnet50", "model.pth", "judge:judge"])
def test_what_is_no_classifier(name):
    with pytest.raises(ClassifierError, match="is no classifier. Write FILE.py:FUNCTION"):
        open_classifier(name, LABELS, {})


def test_a_shown_name_does_not_tell_where_on_this_computer_it_lies(tmp_path):
    (tmp_path / "someone" / "clip").mkdir(parents=True)
    shown = {"c.json": "c.json", f"{tmp_path}/c.json": "c.json", f"{tmp_path}/own.py:judge": "own.py:judge"}
    shown |= {f"clip:{tmp_path}/someone/clip/": "clip:clip", "clip:openai/clip-vit-base": "clip:openai/clip-vit-base"}
    assert {name: shown_name(name) for name in shown} == shown


def test_labels_that_the_classifier_does_not_know(brightness):
    classifier = open_classifier(f"{brightness}:judge", {}, {})
    check_classifier(classifier, {"shade": ["black"]}, 8, 8)
    with pytest.raises(ClassifierError, match="no class 'grey' in its group 'shade'; it has white, black"):
        check_classifier(classifier, {"shade": ["black", "grey"]}, 8, 8)
    with pytest.raises(ClassifierError, match="does not judge 'mood'.*it judges shade"):
        check_classifier(classifier, {"mood": ["calm"]}, 8, 8)


def test_one_class_alone_would_be_seen_in_every_picture(brightness):
    classifier = open_classifier(f"{brightness}:one_row", {}, {})
    with pytest.raises(ClassifierError, match="no class but 'white' in its group 'shade', so it sees that in every"):
        check_classifier(classifier, {"shade": ["white"]}, 8, 8)


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


@pytest.mark.parametrize("library", ["torchvision", "transformers"])
def test_a_library_that_is_not_installed(tmp_path, monkeypatch, library):
    write_network(tmp_path)
    monkeypatch.setitem(sys.modules, library, None)
    name = str(tmp_path / "c.json") if library == "torchvision" else f"clip:{tmp_path}"
    with pytest.raises(ClassifierError, match=f"needs {library}: pip install {library}"):
        open_classifier(name, LABELS, {})


@pytest.fixture
def clip(tmp_path):
    """A folder with a small CLIP of random weights and ComfyUI's copy of CLIP's tokenizer."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokenizer = transformers.CLIPTokenizer.from_pretrained(COMFYUI / "comfy" / "sd1_tokenizer")
    text = {**small, "vocab_size": 49408, "eos_token_id": 49407, "bos_token_id": 49406}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=16
    )
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip", model, tokenizer


def test_clip_compares_pictures_with_texts(clip):
    folder, model, tokenizer = clip
    said = open_classifier(f"clip:{folder}", LABELS, {"object": "one {} alone"}).judge(PICTURES)
    assert said.classes == {"object": ("star", "ring"), "style": ("neon", "dots")}
    scaled = nn.functional.interpolate(PICTURES.movedim(-1, 1) / 255, (32, 32), mode="bicubic", antialias=True)
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = (scaled.clamp(0, 1) - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    for group, texts in (
        ("object", ["one star alone", "one ring alone"]),
        ("style", ["a picture in neon style", "a picture in dots style"]),
    ):
        seen = []
        for text in texts:  # one by one, without padding
            with torch.no_grad():
                both = model(**tokenizer(text, return_tensors="pt"), pixel_values=pixels)
            seen.append(nn.functional.cosine_similarity(both.image_embeds, both.text_embeds))
        expected = (torch.stack(seen, dim=1) * model.logit_scale.exp()).softmax(dim=1)
        assert expected.std() > 1e-4
        assert torch.allclose(said.probabilities[group], expected, atol=1e-4)
    assert said.features is not None and said.features.shape == (3, 16)


def test_a_folder_without_clip(tmp_path):
    with pytest.raises(ClassifierError, match="there is no CLIP model.*It must be a folder with"):
        open_classifier(f"clip:{tmp_path}", LABELS, {})


def test_nothing_is_judged_twice(tmp_path, brightness):
    from PIL import Image

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
    from PIL import Image

    classifier, files = open_classifier(f"{brightness}:judge", {}, {}), [tmp_path / "0.png"]
    Image.new("RGB", (64, 64), (255,) * 3).save(files[0])
    verdicts = tmp_path / "judged" / "original.safetensors"
    first = judge_files(classifier, files, verdicts)
    verdicts.write_bytes(verdicts.read_bytes()[:20])
    assert same(judge_files(classifier, files, verdicts), first)
    files[0].write_bytes(files[0].read_bytes()[:-30])
    with pytest.raises(OSError, match="0.png cannot be read.*Delete it and run the same again"):
        read_pictures(files)


def test_other_pictures_under_the_same_names_are_judged_anew(tmp_path, brightness):
    from PIL import Image

    classifier = open_classifier(f"{brightness}:judge", {}, {})
    file, verdicts = tmp_path / "0.png", tmp_path / "judged" / "original.safetensors"
    for shade, seen in ((255, "white"), (0, "black")):
        Image.new("RGB", (8, 8), (shade,) * 3).save(file)
        assert judge_files(classifier, [file], verdicts).seen("shade") == [seen]


def test_of_many_pictures_each_has_its_own_verdict_and_its_own_change(tmp_path, brightness, monkeypatch):
    """They are read a few at a time."""
    from PIL import Image

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


def test_the_small_world_is_judged_as_by_its_own_classifier():
    from shapecanvas.classifier import classify, load_classifier
    from shapecanvas.concepts import OBJECTS, STYLES

    pictures = torch.randint(0, 256, (4, 64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    said = open_classifier(f"{ROOT / 'tests' / 'shapecanvas_judge.py'}:judge", {}, {}).judge(pictures)
    objects, styles = classify(load_classifier(), pictures / 255)
    assert said.seen("object") == [OBJECTS[index] for index in objects]
    assert said.seen("style") == [STYLES[index] for index in styles]


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
