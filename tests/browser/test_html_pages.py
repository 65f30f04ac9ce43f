"""The pages that the commands write fit on a telephone and on a large screen."""

from pathlib import Path

import pytest
import torch

from sae_eraser.training.evaluation.judging import Judgement
from sae_eraser.training.evaluation.pictures import ORIGINAL, Sampling, Setting
from sae_eraser.training.evaluation.result_page import write_page
from sae_eraser.training.evaluation.results import measure_erasure, measure_originals
from sae_eraser.training.prompts import LabelledPrompt

NAMES = ("Photorealistic_portraiture", "ring")


def write_evaluation(folder: Path) -> Path:
    """Of an SAE and of a concept with long names."""
    prompts = [LabelledPrompt(f"a {name}", {"object": (name,)}) for name in NAMES]
    sae = f"{'up_blocks.1.attentions.1_' * 3}batchtopk.safetensors"
    sampling = Sampling("model.safetensors", sae, prompts, 7, 4, {"width": 64}, {})
    said = {ORIGINAL: Judgement({"object": NAMES}, {"object": torch.eye(2)}, None)}
    results = measure_originals(sampling, "judge", 0.6, 1, said[ORIGINAL])
    setting = Setting(NAMES[0], 1.0)
    said[setting] = said[ORIGINAL]
    results.erasures.append(measure_erasure(results, setting, said[ORIGINAL], said[setting], [9.0, 4.0]))
    write_page(folder, results, said)
    return folder / "evaluation.html"


@pytest.mark.parametrize("width", [420, 1200])
def test_nothing_runs_off_the_side(browser, tmp_path, width):
    with browser.new_context(viewport={"width": width, "height": 900}) as context:
        page = context.new_page()
        page.goto(write_evaluation(tmp_path).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        table = page.locator("table.scores")
        assert table.evaluate("it => it.scrollWidth > it.clientWidth") == (width == 420)
        assert table.evaluate("it => getComputedStyle(it).overflowX") == "auto"
