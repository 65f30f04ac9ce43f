"""Which concepts an evaluation is about, as a ComfyUI lists them and as the prompts label them."""

import json
import urllib.parse
from contextlib import nullcontext
from dataclasses import replace
from unittest import mock

import pytest

from sae_eraser.training.cli import main
from sae_eraser.training.comfyui.server import ComfyUI, ComfyUIError
from sae_eraser.training.commands import evaluate_command
from sae_eraser.training.evaluation import pictures
from sae_eraser.training.evaluation.pictures import ORIGINAL, Sampling, Setting, batch_graph, picture_files
from sae_eraser.training.evaluation.settings import choose_concepts, keep_settings
from sae_eraser.training.prompts import LabelledPrompt


class Listing(ComfyUI):
    """A ComfyUI whose only SAE, `mine`, has these concepts."""

    def __init__(self, concepts: list[str]):
        super().__init__("http://nowhere")
        self._concepts = concepts

    def request(self, path: str, body=None):
        node = urllib.parse.unquote(path.rpartition("/")[2])
        concept = {"required": {"concept": [self._concepts, {}]}}
        return {node: {"input": {"required": {"sae": ["", {"options": [{"key": "mine", "inputs": concept}]}]}}}}


def chosen(wanted: list[str] | None, **groups: list[str]) -> list[str]:
    comfyui = Listing(["star", "object: glass", "material: glass"])
    return choose_concepts(comfyui, "mine", wanted, groups)


def test_all_that_the_prompts_name_are_chosen_with_namesakes_told_apart_by_their_groups():
    assert chosen(None, object=["star", "glass"]) == ["star", "object: glass"]
    assert chosen(None, object=["glass"], material=["glass"]) == ["object: glass", "material: glass"]
    assert chosen(["material: glass"], object=["glass"], material=["glass"]) == ["material: glass"]


@pytest.mark.parametrize(
    "wanted, groups, message",
    [
        (["glass"], {"object": ["glass"]}, "mine has no concept 'glass'; it has star, object: glass, material: glass"),
        (["object: glass"], {"material": ["glass"]}, "No prompt is labelled 'object: glass'"),
        (None, {"thing": ["glass"]}, "None of .* is a label of the prompts .glass.*'group: name' its groups as well"),
        (None, {"object": ["star"], "sign": ["star"]}, "'star' is a label of several groups"),
    ],
)
def test_what_cannot_be_evaluated_is_said(wanted, groups, message):
    with pytest.raises(ValueError, match=message):
        chosen(wanted, **groups)


def test_settings_that_comfyui_refused_can_be_put_right(tmp_path):
    """Nothing was sampled with them; or only the originals, which what erases does not concern."""
    comfyui = mock.Mock(request=lambda path: [])
    wrong = Sampling("c", "mine", [LabelledPrompt("a star", {})], 0, 4, {"steps": 0}, {"mode": "scal"})
    half = replace(wrong, inputs={"steps": 9})
    right = replace(half, erasing={"mode": "scale"}, guard={"sae": "drawn", "threshold": 0.5})
    keep_settings(comfyui, tmp_path, wrong)
    keep_settings(comfyui, tmp_path, half)
    for setting, now, changed in ((ORIGINAL, right, "inputs"), (Setting("star", 1.0), right, "inputs, erasing, guard")):
        picture = picture_files(tmp_path, now, setting)[0]
        picture.parent.mkdir(parents=True)
        picture.touch()
        keep_settings(comfyui, tmp_path, now)
        with pytest.raises(ValueError, match=rf"sampled with other settings \({changed}\)"):
            keep_settings(comfyui, tmp_path, wrong)
    written = (tmp_path / "sampling.json").stat().st_mtime_ns
    keep_settings(comfyui, tmp_path, right)
    assert (tmp_path / "sampling.json").stat().st_mtime_ns == written
    assert json.loads((tmp_path / "sampling.json").read_text())["erasing"] == {"mode": "scale"}


@pytest.mark.parametrize("noted", [None, "", "[]", '{"checkpoint": '])
def test_pictures_of_which_nothing_says_how_they_were_sampled_are_not_taken(tmp_path, noted):
    comfyui = mock.Mock(request=lambda path: [])
    sampling = Sampling("c", "mine", [LabelledPrompt("a star", {})], 0, 4, {}, {})
    settings = tmp_path / "sampling.json"
    if noted is not None:
        settings.write_text(noted)
    keep_settings(comfyui, tmp_path, sampling)
    picture = picture_files(tmp_path, sampling, Setting("star", 1.0))[0]
    picture.parent.mkdir(parents=True)
    picture.touch()
    keep_settings(comfyui, tmp_path, sampling)
    settings.unlink()
    if noted is not None:
        settings.write_text(noted)
    with pytest.raises(ValueError, match="sampled with other settings.*delete this one"):
        keep_settings(comfyui, tmp_path, sampling)


def test_another_checkpoint_is_noticed_if_the_sae_has_its_name(tmp_path):
    sizes = {"checkpoints": 1, "sae": 1}

    def files(path: str) -> list:
        folder = path.rpartition("/")[2]
        return [{"name": "mine", "size": sizes[folder], "modified": 0}]

    comfyui = mock.Mock(request=files)
    sampling = Sampling("mine", "mine", [LabelledPrompt("a star", {})], 0, 4, {}, {})
    keep_settings(comfyui, tmp_path, sampling)
    picture = picture_files(tmp_path, sampling, ORIGINAL)[0]
    picture.parent.mkdir(parents=True)
    picture.touch()
    sizes["sae"] = 2
    keep_settings(comfyui, tmp_path, sampling)
    sizes["checkpoints"] = 2
    with pytest.raises(ValueError, match=r"sampled with other settings \(file checkpoints/mine\)"):
        keep_settings(comfyui, tmp_path, sampling)


@pytest.mark.parametrize("file", ["mine", "drawn"])
def test_an_sae_that_was_trained_anew_is_noticed(tmp_path, file):
    """Its file has the same size."""
    modified = {"mine": 1, "drawn": 1}
    comfyui = mock.Mock(
        request=lambda path: [{"name": name, "size": 9, "modified": when} for name, when in modified.items()]
    )
    guard = {"sae": "drawn", "threshold": 0.5}
    sampling = Sampling("c", "mine", [LabelledPrompt("a star", {})], 0, 4, {}, {}, guard)
    keep_settings(comfyui, tmp_path, sampling)
    picture = picture_files(tmp_path, sampling, Setting("star", 1.0))[0]
    picture.parent.mkdir(parents=True)
    picture.touch()
    keep_settings(comfyui, tmp_path, sampling)
    modified[file] = 2
    with pytest.raises(ValueError, match=rf"sampled with other settings \(file sae/{file}\)"):
        keep_settings(comfyui, tmp_path, sampling)


def test_a_batch_has_its_own_seeds_and_the_guard_its_threshold():
    prompts = [LabelledPrompt(f"a star {number}", {}) for number in range(6)]
    sampling = Sampling("c", "mine", prompts, 100, 4, {}, {}, {"sae": "drawn", "threshold": 0.5})
    graph = batch_graph(sampling, Setting("star", 1.5), 4)
    assert graph["sample"]["inputs"]["prompts"] == '{"prompt": "a star 4"}\n{"prompt": "a star 5"}'
    assert graph["sample"]["inputs"]["first_seed"] == 104
    assert graph["guard"]["inputs"]["threshold"] == 0.5


def test_a_long_name_fits_into_a_file_system():
    long, too = Setting("a" * 300, 1.0).name, Setting("a" * 299 + "b", 1.0).name
    assert len(long) < 100 and long != too


def test_no_two_strengths_share_a_folder(tmp_path, capsys):
    """Nor one with what an earlier run has left there."""
    files = {"prompts": tmp_path / "p.csv", "classifier": "judge.py:judge", "out": tmp_path / "out"}
    options = files | {"checkpoint": "c", "sae": "mine", "server": "http://nowhere"}
    line = ["evaluate", *(str(word) for name, value in options.items() for word in (f"--{name}", value))]
    assert main([*line, "--strengths", "0.5", "1.0000001"]) == 1
    message = "--strengths 1.0000001 has more than the six digits by which results are told apart. Write 1, or another"
    assert message in capsys.readouterr().err
    assert main([*line, "--strengths", "0.333333", "1e-5", "1"]) == 1
    assert "--strengths" not in capsys.readouterr().err


def test_a_name_with_a_comma_is_guarded(tmp_path):
    """Concept Guard keeps it whole."""
    (tmp_path / "p.jsonl").write_text('{"prompt": "a bar at night", "artist": ["Hopper, Edward"]}')
    (tmp_path / "judge.py").write_text("judge = print")
    files = {"prompts": tmp_path / "p.jsonl", "classifier": f"{tmp_path / 'judge.py'}:judge", "out": tmp_path / "out"}
    options = files | {"checkpoint": "c", "sae": "mine", "guard": "g", "server": "http://nowhere"}
    line = ["evaluate", *(str(word) for name, value in options.items() for word in (f"--{name}", value))]
    comfyui = nullcontext(Listing(["Hopper, Edward"]))
    guard = {"sae": "g", "threshold": 0.5}
    sampling = Sampling("c", "mine", [LabelledPrompt("a bar at night", {})], 0, 4, {"height": 8, "width": 8}, {}, guard)
    run = mock.Mock(side_effect=ValueError("enough"))
    with (
        mock.patch.object(evaluate_command, "chosen_comfyui", lambda options: comfyui),
        mock.patch.object(evaluate_command, "read_sampling", lambda *anything: sampling),
        mock.patch.object(evaluate_command, "check_classifier", lambda classifier, *anything: classifier),
        mock.patch.object(evaluate_command, "keep_settings"),
        mock.patch.object(evaluate_command, "_run", run),
    ):
        assert main(line) == 1
    (_, _, guarded, (setting, *_), *_), _ = run.call_args
    assert batch_graph(guarded, setting, 0)["guard"]["inputs"]["concepts"] == "Hopper, Edward"


def test_a_model_for_videos_is_refused(tmp_path, monkeypatch):
    """Of each latent ComfyUI decodes all frames as pictures."""
    frames = {"outputs": {"pictures": {"images": [{"filename": f"{index}.png"} for index in range(10)]}}}
    monkeypatch.setattr(pictures, "run_graph", lambda comfyui, graph: frames)
    sampling = Sampling("video", "mine", [LabelledPrompt("a star", {})] * 2, 0, 4, {}, {})
    with pytest.raises(ComfyUIError, match="video drew 10 pictures for 2 prompts. .* videos cannot be evaluated"):
        pictures.sample_missing(ComfyUI("http://nowhere"), sampling, ORIGINAL, tmp_path, print)
    assert not list(tmp_path.iterdir())


def test_pictures_of_a_guard_that_does_not_say_what_it_withheld_are_not_taken(tmp_path, monkeypatch):
    drawn = {"outputs": {"pictures": {"images": [{"filename": "0.png"}]}}}
    monkeypatch.setattr(pictures, "run_graph", lambda comfyui, graph: drawn)
    guard = {"sae": "drawn", "threshold": 0.5}
    sampling = Sampling("c", "mine", [LabelledPrompt("a star", {})], 0, 4, {}, {}, guard)
    with pytest.raises(ComfyUIError, match="does not say which pictures Concept Guard has withheld. Restart it"):
        pictures.sample_missing(ComfyUI("http://nowhere"), sampling, Setting("star", 1.0), tmp_path, print)
    assert not list(tmp_path.iterdir())
