"""CLIP as a classifier, against the model itself."""

import sys
from unittest import mock

import pytest
import torch
from safetensors.torch import load, save_file
from torch import nn

from comfy_server import COMFYUI
from pure.to_judge import LABELS, PICTURES
from sae_eraser.training.evaluation.classifiers import open_classifier
from sae_eraser.training.evaluation.judging import ClassifierError


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


def test_weights_that_are_not_those_of_a_whole_clip_are_refused(clip):
    """transformers would fill in random ones."""
    folder, *_ = clip
    whole = load((folder / "model.safetensors").read_bytes())
    odd = {
        "its weights lack vision_model": {name: x for name, x in whole.items() if "vision" not in name},
        "mismatch": whole | {"logit_scale": torch.zeros(3), "visual_projection.weight": torch.zeros(4, 4)},
    }
    for message, weights in odd.items():
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ClassifierError, match=f"there is no CLIP model .*{message}.*It must be a folder with"):
            open_classifier(f"clip:{folder}", LABELS, {})
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ClassifierError, match="there is no CLIP model"):
        open_classifier(f"clip:{folder}", LABELS, {})


def test_a_folder_without_a_tokenizer(clip):
    """transformers would make one that takes every word for the same."""
    folder, *_ = clip
    for file in folder.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            file.unlink()
    with pytest.raises(
        ClassifierError, match="(there is no CLIP model|tokenizer can read nothing in 'a picture of star')"
    ):
        open_classifier(f"clip:{folder}", LABELS, {})


def test_a_text_that_is_longer_than_clip_reads_is_named(clip):
    """Of 77 tokens a start, an end and the five of "a picture of in one" leave 70."""
    folder, *_ = clip
    texts = {"object": "a picture of {} in one"}
    most, more = " ".join(["star"] * 70), " ".join(["star"] * 71)
    said = open_classifier(f"clip:{folder}", {"object": ["ring", most]}, texts).judge(PICTURES)
    assert said.probabilities["object"].shape == (3, 2)
    with pytest.raises(
        ClassifierError,
        match=f"clip:{folder} reads texts of up to 77 tokens, but that of '{more}' in the group 'object' has 78. "
        "Shorten this label in the prompts, or the group's text in --clip-text",
    ):
        open_classifier(f"clip:{folder}", {"style": ["neon"], "object": ["ring", more]}, texts)


def test_an_error_without_a_message_is_named_by_its_kind(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(transformers.CLIPModel, "from_pretrained", mock.Mock(side_effect=OSError))
    with pytest.raises(ClassifierError, match=r"there is no CLIP model \(OSError\)"):
        open_classifier(f"clip:{tmp_path}", LABELS, {})


def test_transformers_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ClassifierError, match="needs transformers: pip install transformers"):
        open_classifier(f"clip:{tmp_path}", LABELS, {})
