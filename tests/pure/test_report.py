"""The page with pictures of a training: complete, self-contained, safe against names, and optional."""

import itertools
import math
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from pure.planted import plant, write_cache
from pure.training_runs import train
from sae_eraser.sae_ops.autoencoder import SAEConfig
from sae_eraser.sae_ops.concepts import Concept, ConceptStatistics
from sae_eraser.sae_ops.sae_file import SAEHeader, load_sae
from sae_eraser.training.finish import Made
from sae_eraser.training.measure import Measurement
from sae_eraser.training.phases import RECONSTRUCT, SUPERVISE, Track
from sae_eraser.training.recommend import recommendation
from sae_eraser.training.report import write_report

FIGURES = ("While training", "Over noise levels", "Is it one to one?", "What is taken for what", "Separation")


def made(*names: str, levels: int = 3) -> Made:
    """What a training of concepts of these names hands over; numbers are random."""
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    n = len(names)
    concepts = tuple(Concept(name, f"group {i % 2}", (i,), -0.5 * i) for i, name in enumerate(names))
    history = [
        {"phase": RECONSTRUCT, "step": step, "fvu": 0.5, "validation": {"loss": 0.4, "fvu": 0.4}} for step in (5, 10)
    ] + [
        {"phase": SUPERVISE, "step": step, "fvu": 0.3, "accuracy": 0.8, "validation": {"fvu": 0.3, "accuracy": 0.7}}
        for step in (4, 8)
    ]
    return Made(
        Path("models/mine.safetensors"),
        SAEHeader("mid_block.attentions.0", "SD15", SAEConfig(16, 32, "topk", 2), concepts=concepts),
        ConceptStatistics(torch.ones(1), *(torch.zeros(1, n) for _ in range(3))),
        Measurement(
            sigmas=torch.arange(1.0, levels + 1),
            fvu=numbers(levels),
            l0=numbers(levels),
            overall_fvu=0.1234,
            overall_l0=31.9,
            never_fired=7,
            accuracy=numbers(n),
            separation=numbers(n),
            detected=numbers(n, n),
            firing=numbers(n, n),
            mistaken=numbers(n, n).fill_diagonal_(torch.nan),
            stray=numbers(n, n).fill_diagonal_(torch.nan),
        ),
        Track(history=history),
    )


class Links(HTMLParser):
    """Everything that a browser would load or follow."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.found += [value for name, value in attributes if name.split(":")[-1] in ("href", "src", "data", "action")]


def page_of(tmp_path: Path, *saes: Made) -> str:
    page = tmp_path / "page.html"
    assert write_report(page, list(saes)) == f"Pictures of the training: {page}"
    return page.read_text()


def test_the_page_has_every_figure_and_the_numbers_of_every_concept(tmp_path):
    sae = made("disc", "box", "star")
    text = page_of(tmp_path, sae)
    assert text.count("<svg") == text.count("</svg>") == len(FIGURES)
    assert re.findall("<h3>(.*?)</h3>", text)[: len(FIGURES)] == list(FIGURES)
    for fact in ("mine.safetensors", "mid_block.attentions.0 of SD15", "32, topk, k = 2", "0.1234", "31.9"):
        assert fact in text
    rows = re.findall("<tr><td>group [01]<td>(.*?)<", text)
    assert rows == ["disc", "box", "star"]
    assert f"{sae.measurement.accuracy[1]:.4f}" in text


def test_the_page_can_be_read_aloud_and_on_a_small_screen(tmp_path):
    text = page_of(tmp_path, made("disc"))
    assert text.startswith("<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport ")
    assert re.findall('<svg role=img aria-label="(.*?)"', text) == list(FIGURES)
    assert "minmax(min(30rem, 100%), 1fr)" in text


def test_a_concept_is_wrongly_seen_only_where_it_is_not_shown(tmp_path):
    """Every picture that shows the box shows the star as well, and the disc is taken for nothing."""
    sae = made("disc", "box", "star")
    rows = [[torch.nan, 0.25, 0.0], [0.0, torch.nan, torch.nan], [0.0, 0.75, torch.nan]]
    sae = replace(sae, measurement=replace(sae.measurement, mistaken=torch.tensor(rows)))
    seen_in = re.findall("<tr><td>group [01].*?<td>([^<]*)(?=<tr>|</table>)", page_of(tmp_path, sae))
    assert seen_in == ["none", "star (75.0 %)", "none"]


def test_several_saes_share_one_page(tmp_path):
    text = page_of(tmp_path, made("disc"), replace(made("box", "star"), out=Path("other.safetensors")))
    assert text.count("<svg") == 2 * len(FIGURES)
    assert re.findall("<h1>(.*?)</h1>", text) == ["mine.safetensors", "other.safetensors"]


def test_the_page_needs_nothing_from_outside(tmp_path):
    links = Links(page_of(tmp_path, made("disc", "box")))
    assert links.found, "the figures refer to their own parts"
    assert [link for link in links.found if not link.startswith(("#", "data:"))] == []
    assert not links.tags & {"script", "link", "iframe", "img"}


def test_names_are_text_wherever_they_stand(tmp_path):
    name = '<script>alert("&")</script>'
    sae = made(name, "box")
    sae = replace(sae, header=replace(sae.header, hookpoint="<b>x</b>"), out=Path("<i>mine.safetensors"))
    text = page_of(tmp_path, sae)
    assert not Links(text).tags & {"script", "b", "i"}
    assert "&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;" in text


def test_any_name_can_be_drawn(tmp_path):
    names = ("$", "$1 or $2", "$\\frac$", "a_b^c", "\\frac", "50 %", "", "a\nb", "_x")
    assert page_of(tmp_path, made(*names)).count("<svg") == len(FIGURES)


def test_namesakes_of_two_groups_have_a_bar_each(tmp_path):
    def heights(text: str) -> set[str]:
        """Where the bars lie."""
        bars = re.findall(r'd="M [\d.]+ ([\d.]+) [^"]*"[^>]*style="fill: #1f77b4', text.split("<h3>Separation</h3>")[1])
        return set(bars)

    assert len(heights(page_of(tmp_path, made("star", "disc")))) == 2
    assert len(heights(page_of(tmp_path, made("star", "star")))) == 2


def test_one_concept_and_one_noise_level_are_enough(tmp_path):
    assert page_of(tmp_path, made("disc", levels=1)).count("<svg") == len(FIGURES)


def test_a_training_without_one_of_the_phases_or_both_is_drawn(tmp_path):
    sae = made("disc", "box")
    for phases in (sae.track.history[2:], sae.track.history[:2], []):
        page_of(tmp_path, replace(sae, track=Track(history=phases)))


def test_an_extension_shows_the_concepts_that_were_added(tmp_path):
    sae = made("wavy", "grainy")
    old = (Concept("disc", "object", (9,)), Concept("box", "object", (8,)))
    text = page_of(tmp_path, replace(sae, header=replace(sae.header, concepts=old + sae.header.concepts)))
    assert re.findall("<tr><td>group [01]<td>(.*?)<", text) == ["wavy", "grainy"]
    assert "disc" not in text


def test_without_matplotlib_a_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install matplotlib" in write_report(tmp_path / "page.html", [made("disc")])
    assert not (tmp_path / "page.html").exists()


def test_a_training_succeeds_without_matplotlib(tmp_path, capsys):
    cache = write_cache(tmp_path / "cache", plant(range(15)))
    steps = ("--latents", "16", "--k", "2", "--unsupervised-steps", "2", "--supervised-steps", "2")
    assert train(cache, tmp_path / "sae.safetensors", *steps) == 0
    assert capsys.readouterr().out.endswith(
        "No pictures of this training were made. For those: pip install matplotlib\n"
    )
    assert not (tmp_path / "sae.html").exists()
    load_sae(tmp_path / "sae.safetensors")


def at(hookpoint: str, **facts: float) -> Made:
    sae = made("disc", "box")
    concepts = tuple(replace(concept, facts=facts) for concept in sae.header.concepts)
    return replace(sae, header=replace(sae.header, hookpoint=hookpoint, concepts=concepts))


def test_of_several_hookpoints_one_is_recommended():
    """By what was learned of the names' part, if that was measured everywhere; else by how well concepts are told."""
    low, high = at("low", explained=0.3, separation=9.0), at("high", explained=0.7, separation=2.0)
    text = recommendation([low, high, high])
    assert text.startswith("Recommended hookpoint: high, by the share") and "high 0.70, low 0.30" in text
    text = recommendation([low, at("high", separation=2.0)])
    assert text.startswith("Recommended hookpoint: low, by the standard deviations") and "low 9.0, high 2.0" in text
    assert recommendation([high, high]) is None and recommendation([at("low"), at("high")]) is None


@pytest.mark.parametrize("order", list(itertools.permutations((2.0, 9.0, math.nan))))
def test_a_hookpoint_of_which_nothing_is_known_comes_last(order):
    text = recommendation([at(f"point {separation:g}", separation=separation) for separation in order])
    assert text.startswith("Recommended hookpoint: point 9,") and "point 9 9.0, point 2 2.0, point nan nan" in text
