"""SAE Info shows what the command info prints."""

import pytest

from sae_eraser.nodes.files.sae_info import SAEInfo
from sae_eraser.sae_ops.sae_file import SAEFileError
from sae_eraser.training.cli import main
from with_comfyui.random_files import MID
from with_comfyui.watching import OBJECTS_SAE, STYLES_SAE


def test_it_shows_place_size_quality_and_every_concept(model):
    output = SAEInfo.execute(OBJECTS_SAE)
    (text,) = output.result
    assert output.ui.as_dict()["text"] == (text,)
    assert "ShapeCanvas, mid_block.attentions.0 (output)" in text
    assert "1024 latents of width 128, batchtopk, k = 16" in text
    assert "share of the variance left unexplained (FVU): 0.1368" in text.splitlines()
    assert "latents that never fired: 153" in text.splitlines()
    assert "trained on 768 pictures of 64 x 64, 25 steps of euler, cfg 3.0" in text
    star = "  object: star         accuracy 1.0, separation 6.6, turn 1.7, multiplier -0.913, latent 13 and 23 more"
    assert star in text.splitlines()
    assert sum(line.startswith("  object: ") for line in text.splitlines()) == 12


@pytest.mark.parametrize("sae", [STYLES_SAE, MID])
def test_the_command_prints_the_same(model, comfyui, capsys, sae):
    path = comfyui.base / "models" / "sae" / sae
    assert main(["info", str(path)]) == 0
    assert capsys.readouterr().out == SAEInfo.execute(sae).result[0] + "\n"


def test_a_file_that_is_gone_is_named_before_the_run_and_in_it(model):
    assert "'gone.safetensors' is not installed" in SAEInfo.validate_inputs("gone.safetensors")
    with pytest.raises(SAEFileError, match="gone.safetensors.*Put SAE files"):
        SAEInfo.execute("gone.safetensors")
