"""SAE Info shows what the command info prints."""

import pytest

from sae_eraser.nodes.files.sae_info import SAEInfo
from sae_eraser.sae_ops.file import SAEFileError
from sae_eraser.training.cli import main
from with_comfyui.random_files import MID
from with_comfyui.watching import OBJECTS_SAE, STYLES_SAE


def test_it_shows_place_size_quality_and_every_concept(model):
    output = SAEInfo.execute(OBJECTS_SAE)
    (text,) = output.result
    assert output.ui.as_dict()["text"] == (text,)
    assert "ShapeCanvas, mid_block.attentions.0 (output)" in text
    assert "1024 latents of width 128, batchtopk, k = 16" in text
    assert "fvu: 0.1368" in text
    assert "trained on 768 pictures of 64 x 64, 25 steps of euler, cfg 3.0" in text
    latents = (
        "13, 823, 588, 79, 147, 251, 233, 25, 551, 534, 998, 433, 955, 477, "
        "833, 35, 694, 788, 197, 400, 103, 652, 440, 577"
    )
    star = f"  object: star         latents {latents}, turn 1.7, multiplier -0.913, accuracy 1.0, separation 6.6"
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
