"""The table and the page of an evaluation: safe against names, honest about what is wrong and what is missing."""

import re
from dataclasses import replace

import pytest
import torch

from sae_eraser.training.evaluation.judging import Judgement
from sae_eraser.training.evaluation.pictures import ORIGINAL, Sampling, Setting
from sae_eraser.training.evaluation.result_page import write_page
from sae_eraser.training.evaluation.result_text import write_results
from sae_eraser.training.evaluation.results import measure_erasure, measure_originals
from sae_eraser.training.prompts import LabelledPrompt, read_prompts

NAMES = ("<b>|star", "ring")


def judgement(*probabilities: float) -> Judgement:
    """By picture, that of the first name."""
    first = torch.tensor(probabilities)
    return Judgement({"object": NAMES}, {"object": torch.stack([first, 1 - first], dim=1)}, None)


def test_names_are_text_and_verdicts_are_marked(tmp_path):
    prompts = [LabelledPrompt(f"draw {name} & more", {"object": (name,)}) for name in NAMES]
    sampling = Sampling("m.safetensors", "s.safetensors", prompts, 7, 4, {"width": 64}, {})
    setting = Setting(NAMES[0], 1.0)
    said = {ORIGINAL: judgement(0.875, 0.125), setting: judgement(0.75, 0.5625)}
    results = measure_originals(sampling, "judge", 0.6, 3, said[ORIGINAL])
    results.erasures.append(measure_erasure(results, setting, said[ORIGINAL], said[setting], [9.0, 4.0]))
    write_results(tmp_path, results)
    write_page(tmp_path, results, said)
    table, page = ((tmp_path / f"evaluation.{kind}").read_text() for kind in ("md", "html"))
    assert r"| object | <b>\|star | 1 | 0.0 | 0.0 | – | – | 50.0 | 4.0 | 0.0 |" in table
    assert "<b>" not in page and "draw &lt;b&gt;|star &amp; more <small>seed 7</small>" in page
    for text in (table, page):
        assert "Not finished: 2 of 3 settings are still to come." in text
    marks = re.findall(r"<span class=([a-z-]+)>. ([^<]+)</span> <small>(\d+)%", page)
    assert marks == [
        ("as-hoped", "&lt;b&gt;|star", "88"),
        ("not-as-hoped", "&lt;b&gt;|star", "75"),
        ("as-hoped", "ring", "88"),
        ("not-as-hoped", "&lt;b&gt;|star", "56"),
    ]
    assert page.count(">broken</span>") == 1


def test_a_withheld_picture_shows_nothing_and_says_so(tmp_path):
    asked = (*NAMES, *NAMES, NAMES[1], NAMES[1], NAMES[0])
    prompts = [LabelledPrompt(f"draw {name}", {"object": (name,)}) for name in asked]
    guard = {"sae": "g.safetensors", "threshold": 0.25}
    sampling = Sampling("m.safetensors", "s.safetensors", prompts, 7, 4, {"width": 64}, {}, guard)
    setting, right = Setting(NAMES[0], 1.0), (1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    said = {ORIGINAL: judgement(*right), setting: replace(judgement(*right), withheld=frozenset([0, 1]))}
    results = measure_originals(sampling, "judge", 0.6, 1, said[ORIGINAL])
    results.erasures.append(measure_erasure(results, setting, said[ORIGINAL], said[setting], [0.0] * 7))
    scores = results.erasures[0].scores
    expected = {"UA": 100 / 3, "IRA": 75, "broken": 200 / 7, "caught": 100 / 3, "mistaken": 25}
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    write_results(tmp_path, results)
    write_page(tmp_path, results, said)
    table, page = ((tmp_path / f"evaluation.{kind}").read_text() for kind in ("md", "html"))
    for text in (table, page):
        assert "Concept Guard with g.safetensors, threshold 0.25" in text
    assert "| unchanged | caught | mistaken |" in table
    assert "<th class=number>caught<th class=number>mistaken<tr>" in page
    assert re.findall(r"<span class=([a-z-]+)>. withheld</span>", page) == ["as-hoped", "not-as-hoped"]
    assert ">broken</span>" not in page


def test_a_group_that_every_prompt_leaves_empty_is_not_asked_for(tmp_path):
    prompts = read_prompts('{"prompt": "a ring", "object": "ring", "style": [""]}')
    sampling = Sampling("m.safetensors", "s.safetensors", prompts, 7, 4, {"width": 64}, {})
    setting = Setting("ring", 1.0)
    said = {ORIGINAL: judgement(0.125), setting: judgement(0.75)}
    results = measure_originals(sampling, "judge", 0.6, 1, said[ORIGINAL])
    results.erasures.append(measure_erasure(results, setting, said[ORIGINAL], said[setting], [9.0]))
    write_page(tmp_path, results, said)
    marks = re.findall(r"<span class=([a-z-]+)>", (tmp_path / "evaluation.html").read_text())
    assert marks == ["as-hoped", "as-hoped"]


def test_a_concept_with_a_namesake_is_measured_and_shown_in_its_own_group(tmp_path):
    rows = ({"object": ("glass",)}, {"material": ("glass",)}, {"object": ("star",), "material": ("wood",)})
    prompts = [LabelledPrompt("draw", labels) for labels in rows]
    sampling = Sampling("m.safetensors", "s.safetensors", prompts, 7, 4, {"width": 64}, {})
    classes = {"object": ("glass", "star"), "material": ("glass", "wood")}

    def seen(*places: list[int]) -> Judgement:
        tables = zip(classes, places, strict=True)
        return Judgement(classes, {group: torch.eye(2)[place] for group, place in tables}, None)

    settings = [Setting(f"{group}: glass", 1.0) for group in classes]
    said = {ORIGINAL: seen([0, 0, 1], [0, 0, 1]), settings[0]: seen([1, 0, 1], [0, 0, 1])}
    said[settings[1]] = said[ORIGINAL]
    results = measure_originals(sampling, "judge", 0.6, 2, said[ORIGINAL])
    for setting in settings:
        results.erasures.append(measure_erasure(results, setting, said[ORIGINAL], said[setting], [9.0, 4.0, 1.0]))
    assert [(e.group, e.scores["UA"], e.scores["drift"]) for e in results.erasures] == [
        ("object", 100, 1),
        ("material", 0, 1),
    ]
    write_page(tmp_path, results, said)
    _, *sections = (tmp_path / "evaluation.html").read_text().split("<h2>")[:-1]
    for section, marks in zip(sections, (["✓ glass", "✓ star"], ["✓ glass", "✗ glass"]), strict=True):
        asked = section.partition("Not asked for it")[0]
        assert re.findall(r"<span class=[a-z-]+>(. [^<]+)</span>", asked) == marks
