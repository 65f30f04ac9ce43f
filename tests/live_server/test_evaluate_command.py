"""sae-eraser evaluate on a real server with the small world, its SAE and its classifier."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import pytest
import torch

from checkout import ROOT
from comfy_server import Server
from folder_contents import contents
from sae_eraser.training.cli import main
from sae_eraser.training.comfyui.server import ComfyUI, run_graph
from sae_eraser.training.evaluation.judging import read_pictures
from sae_eraser.training.evaluation.pictures import (
    Sampling,
    Setting,
    picture_files,
    sample_missing,
    withheld_pictures,
)
from sae_eraser.training.prompts import read_prompts

SAE, DRAWN_SAE = "sae_shapecanvas_objects.safetensors", "sae_shapecanvas_drawn.safetensors"
OBJECTS, STYLES = ("star", "ring"), ("neon", "dots")
ROWS = [{"prompt": f"a {o} in {s} style", "object": o, "style": s} for o in OBJECTS for s in STYLES]
ROWS += [{"prompt": "a house", "object": "house"}, {"prompt": "mosaic style", "style": "mosaic"}]
ALWAYS = """
from pathlib import Path
import torch

OBJECTS, STYLES = ("star", "ring", "house"), ("neon", "dots", "mosaic")

def judge(pictures):
    unsure = torch.full((len(pictures), 3), 1 / 3)
    is_noise = pictures.float().diff(dim=2).abs().mean(dim=(1, 2, 3)) > 70
    seen = torch.eye(3)[OBJECTS.index(Path(__file__).with_name("weights").read_text())]
    return {"object": (OBJECTS, torch.where(is_noise[:, None], unsure, seen)), "style": (STYLES, unsure)}
"""
"""Sees the object that the file beside it names in whatever is no noise."""


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    return file


def command(server: Server, prompts: Path, out: Path, /, *more, **changed) -> list[str]:
    inputs = {"checkpoint": "shapecanvas.safetensors", "sae": SAE, "prompts": prompts, "out": out}
    inputs |= {"classifier": f"{ROOT / 'tests' / 'shapecanvas_judge.py'}:judge", "server": server.url}
    inputs |= {"batch-size": 4, "steps": 12, "cfg": 3, "width": 64, "height": 64, "seeds": 2} | changed
    return ["evaluate", *(str(word) for option, value in inputs.items() for word in (f"--{option}", value)), *more]


@pytest.fixture(scope="module")
def evaluated(server, prompts, tmp_path_factory) -> Path:
    """The folder of an evaluation of star at two strengths."""
    out = tmp_path_factory.mktemp("evaluation")
    assert main(command(server, prompts, out, "--concepts", "star", "--strengths", "0.001", "1")) == 0
    return out


def test_an_erased_concept_is_gone_and_the_rest_stays(evaluated):
    results = json.loads((evaluated / "evaluation.json").read_text())
    assert (results["pictures"], results["settings_tried"], results["settings_planned"]) == (12, 2, 2)
    weak, strong = results["concepts"]
    assert (weak["concept"], weak["strength"], strong["strength"]) == ("star", 0.001, 1)
    assert strong["before"]["UA"] <= 25 and strong["scores"]["UA"] >= 75
    assert weak["scores"]["UA"] == weak["before"]["UA"]
    assert strong["scores"]["IRA"] >= 75 and strong["scores"]["CRA"] >= 75
    assert 0 <= weak["scores"]["Frechet"] < strong["scores"]["Frechet"] / 10
    assert strong["scores"]["drift"] < 5
    assert results["means"][-1]["strength"] == "best"
    assert results["sampling"]["inputs"]["steps"] == 12 and results["sampling"]["inputs"]["sampler_name"] == "euler"


def test_a_picture_is_that_of_its_prompt_and_seed_by_comfyuis_own_nodes(server, evaluated):
    index = 7  # the second batch, in the second round of the prompts
    sampler = {"seed": index, "steps": 12, "cfg": 3, "sampler_name": "euler", "scheduler": "normal", "denoise": 1}
    links = {"model": ["c", 0], "positive": ["p", 0], "negative": ["n", 0], "latent_image": ["e", 0]}
    graph = {
        "c": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "shapecanvas.safetensors"}},
        "p": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["c", 1], "text": ROWS[index % 6]["prompt"]}},
        "n": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["c", 1], "text": ""}},
        "e": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "k": {"class_type": "KSampler", "inputs": sampler | links},
        "d": {"class_type": "VAEDecode", "inputs": {"samples": ["k", 0], "vae": ["c", 2]}},
        "s": {"class_type": "PreviewImage", "inputs": {"images": ["d", 0]}},
    }
    comfyui = ComfyUI(server.url)
    (image,) = run_graph(comfyui, graph)["outputs"]["s"]["images"]
    alone = evaluated.parent / "alone.png"
    alone.write_bytes(comfyui.fetch("/view?" + urllib.parse.urlencode(image)))
    expected, picture = read_pictures([alone, evaluated / "pictures" / "original" / f"{index:05}.png"])
    assert picture.float().std() > 20
    assert (picture.int() - expected.int()).abs().max() <= 2


def test_the_table_and_the_page_say_the_same(evaluated):
    table, page = ((evaluated / f"evaluation.{kind}").read_text() for kind in ("md", "html"))
    for text in (table, page):
        assert "12 pictures of shapecanvas.safetensors" in text
        assert "Settings tried: 2 (2 strengths for each concept)" in text
        assert "Not finished" not in text
        assert "judged by shapecanvas_judge.py:judge." in text and str(ROOT) not in text
    scores = json.loads((evaluated / "evaluation.json").read_text())["concepts"][1]["scores"]
    assert f"| object | star | 1 | {scores['UA']:.1f} |" in table
    shown = re.findall(r'<img[^>]* src="([^"]+)"', page)
    assert len(shown) == 2 * (4 + 6)
    for file in shown:
        assert (evaluated / urllib.parse.unquote(file)).is_file()
    assert "http" not in page


def test_more_strengths_and_concepts_go_on_with_what_is_there(server, prompts, evaluated, capsys):
    before = {file: (evaluated / file).stat().st_mtime_ns for file in contents(evaluated) if "evaluation." not in file}
    assert main(command(server, prompts, evaluated, "--concepts", "star", "ring")) == 0
    said = capsys.readouterr()
    assert "36 of 36 pictures" in said.err and "24 of 36" not in said.err
    assert re.search(r"^object +ring +1 ", said.out, re.MULTILINE)
    assert {file: (evaluated / file).stat().st_mtime_ns for file in before} == before


def test_a_classifier_that_differs_on_the_pictures_alone_judges_anew(server, prompts, evaluated, tmp_path):
    """Of the noise on which it is tried first the two say the same, and its file stays the same."""
    folder = shutil.copytree(evaluated, tmp_path / "evaluation")
    (tmp_path / "always.py").write_text(ALWAYS)
    for name, share in (("star", 40), ("house", 20)):
        (tmp_path / "weights").write_text(name)
        line = command(server, prompts, folder, "--concepts", "star", classifier=f"{tmp_path / 'always.py'}:judge")
        assert main(line) == 0
        assert json.loads((folder / "evaluation.json").read_text())["original_accuracy"]["object"] == share


def test_another_sampling_does_not_mix_with_what_is_there(server, prompts, evaluated, capsys):
    before = contents(evaluated)
    assert main(command(server, prompts, evaluated, steps=11)) == 1
    assert "holds pictures that were sampled with other settings (inputs)" in capsys.readouterr().err
    assert main(command(server, prompts, evaluated, "--mode", "ablate")) == 1
    assert "sampled with other settings (erasing)" in capsys.readouterr().err
    file = json.loads((evaluated / "sampling.json").read_text())
    (evaluated / "sampling.json").write_text(json.dumps(file | {f"file sae/{SAE}": [[1, 2]]}))
    assert main(command(server, prompts, evaluated)) == 1
    assert f"sampled with other settings (file sae/{SAE})" in capsys.readouterr().err
    (evaluated / "sampling.json").write_bytes(before["sampling.json"])
    assert contents(evaluated) == before


def test_behind_a_guard_pictures_of_the_concept_are_withheld(server, prompts, tmp_path, capsys):
    guarded = ("--concepts", "star", "--guard", DRAWN_SAE, "--strengths", "0", "1")
    assert main(command(server, prompts, tmp_path, *guarded, steps=25)) == 0
    assert re.search(r"^group .* caught +mistaken$", capsys.readouterr().out, re.MULTILINE)
    alone, erased = json.loads((tmp_path / "evaluation.json").read_text())["concepts"]
    assert alone["strength"] == 0 and alone["scores"]["caught"] == alone["scores"]["UA"] == 100
    assert erased["scores"]["UA"] >= 75 and erased["scores"]["caught"] <= 50
    assert alone["scores"]["mistaken"] == erased["scores"]["mistaken"] == 0
    folder = tmp_path / "pictures" / "star at 0"
    for index in range(12):
        file = folder / f"{index:05}.png"
        asked = "star" in ROWS[index % 6]["prompt"]
        original = read_pictures([tmp_path / "pictures" / "original" / file.name])
        assert torch.equal(read_pictures([file]), torch.zeros_like(original) if asked else original)
    before = contents(tmp_path)
    assert main(command(server, prompts, tmp_path, *guarded, "--threshold", "0.5", steps=25)) == 1
    assert "sampled with other settings (guard)" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_what_a_guard_withheld_is_known_where_comfyui_has_the_pictures_ready(server, tmp_path):
    """As after a stop between the sampling of a batch and its last file."""
    sampling = {"steps": 12, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "width": 64, "height": 64}
    erasing = {"mode": "turn", "branch": "cond", "start_percent": 0.0, "end_percent": 1.0}
    prompts = read_prompts("\n".join(map(json.dumps, ROWS[1:3])))
    guard = {"sae": DRAWN_SAE, "threshold": 0.25}
    asked = Sampling("shapecanvas.safetensors", SAE, prompts, 0, 2, sampling, erasing, guard)
    files = picture_files(tmp_path, asked, Setting("star", 0.0))
    for lost in files:
        lost.unlink(missing_ok=True)
        sample_missing(ComfyUI(server.url), asked, Setting("star", 0.0), tmp_path, print)
        assert withheld_pictures(files) == {0}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_at_any_moment_it_goes_on_to_the_same_pictures(server, prompts, evaluated, tmp_path, how):
    line = command(server, prompts, tmp_path, "--concepts", "star")
    process = subprocess.Popen([sys.executable, ROOT / "training", *line], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "pictures" / "original" / "00001.png").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (1 if how == signal.SIGINT else -how)
    if how == signal.SIGINT:
        assert "Stopped. Run the same command again" in said
        assert not ComfyUI(server.url).request("/queue")["queue_pending"]
    assert 2 <= len(list(tmp_path.rglob("*.png"))) < 24
    assert not (tmp_path / "evaluation.json").exists()
    for picture in ("original/00000.png", "star at 1/00011.png"):  # killed while it was written
        (tmp_path / "pictures" / f"{picture}.0a1b2c3d.part").mkdir(parents=True)
    assert main(line) == 0
    assert not list(tmp_path.rglob("*.part"))
    for folder in ("original", "star at 1"):
        files = [Path("pictures", folder, f"{index:05}.png") for index in range(12)]
        stopped, whole = (read_pictures([place / file for file in files]) for place in (tmp_path, evaluated))
        assert torch.equal(stopped, whole)


@pytest.mark.parametrize(
    "changed, more, message",
    [
        ({"sae": "none.safetensors"}, (), f"has no SAE 'none.safetensors'. Put the file.*it has {SAE}"),
        ({"checkpoint": "none.safetensors"}, (), "ComfyUI refuses this: .*none.safetensors"),
        ({"sampler": "none"}, (), "ComfyUI refuses this: .*sampler_name: 'none' not in"),
        ({}, ("--concepts", "neon"), f"{SAE} has no concept 'neon'; it has circle, "),
        ({}, ("--concepts", "tree"), "No prompt is labelled 'tree'"),
        ({"strengths": 0}, (), "--strengths must be above 0"),
        ({"strengths": 11}, ("--concepts", "star"), "ComfyUI refuses this: .*strength"),
        ({"threshold": 0.5}, (), "--threshold is that of a guard. Name its SAE with --guard"),
        ({"guard": "none.safetensors"}, ("--concepts", "star"), "ComfyUI refuses this: .*none.safetensors"),
        ({"guard": "sae_shapecanvas_styles.safetensors"}, ("--concepts", "star"), "SAEEraser_ConceptGuard: .*star"),
        ({"seeds": 0}, (), "--seeds must be at least 1"),
        ({"clip-text": "object"}, (), "--clip-text object: write GROUP=TEXT"),
        ({"classifier": "nothing"}, (), "'nothing' is no classifier"),
        ({"server": "http://127.0.0.1:1"}, (), "ComfyUI at http://127.0.0.1:1 does not answer"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(server, prompts, tmp_path, capsys, changed, more, message):
    assert main(command(server, prompts, tmp_path / "out", *more, steps=1, **changed)) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert re.search(message, said.err.splitlines()[-1])
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_prompts_without_labels_and_with_unknown_ones(server, tmp_path, capsys):
    (tmp_path / "p.csv").write_text("prompt\na star\n")
    assert main(command(server, tmp_path / "p.csv", tmp_path)) == 1
    assert "p.csv have no labels" in capsys.readouterr().err
    (tmp_path / "p.csv").write_text("prompt,object\na star,star\na cat,cat\n")
    assert main(command(server, tmp_path / "p.csv", tmp_path)) == 1
    assert "has no class 'cat' in its group 'object'" in capsys.readouterr().err
