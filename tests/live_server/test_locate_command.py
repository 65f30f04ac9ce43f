"""sae-eraser locate against a real server."""

import json
import re

import pytest

from sae_eraser.training.cli import main

MID = "mid_block.attentions.0"


@pytest.fixture
def pairs(tmp_path):
    file = tmp_path / "pairs.txt"
    file.write_text("a star in neon style | a ring in neon style\n")
    return file


def command(server, pairs, **changed) -> list[str]:
    inputs = {"name": "live", "hookpoints": f"{MID},up_blocks.0.attentions.0", "ranges": "0-1,0.5-1", "seeds": 1}
    inputs |= {"first-seed": 5, "steps": 2, "cfg": 3, "sampler": "heun", "scheduler": "karras", "width": 72}
    inputs |= {"height": 56, "batch-size": 1, "combine": 2, "hooked": "residual"} | changed
    words = [str(word) for option, value in inputs.items() for word in (f"--{option}", value)]
    return ["locate", "--server", server.url, "--checkpoint", "shapecanvas.safetensors", "--pairs", str(pairs), *words]


def test_a_server_locates_what_the_options_say(server, pairs, capsys):
    assert main(command(server, pairs)) == 0
    said = capsys.readouterr().out
    folder = server.base / "output" / "sae_locate"
    assert said == (folder / "live.md").read_text() + "\n\nThe picture is output/sae_locate/live.png of ComfyUI.\n"
    assert f"| {MID} | " in said and "| all 2 | " in said
    assert (folder / "live.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((folder / "live.json").read_text())
    assert results["settings"] == {
        "model_family": "ShapeCanvas",
        "pairs": [["a star in neon style", "a ring in neon style"]],
        **{"first_seed": 5, "seeds": 1, "hooked": "residual", "steps": 2, "cfg": 3.0},
        **{"sampler_name": "heun", "scheduler": "karras", "width": 72, "height": 56},
    }
    assert len(results["measured"]) == 5
    assert main(command(server, pairs)) == 0
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"hookpoints": "up_blocks.9"}, "No hookpoint of this model has 'up_blocks.9' in its name. It has: "),
        ({"combine": 0}, "ComfyUI refuses this: .*combine"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(server, pairs, capsys, changed, message):
    assert main(command(server, pairs, name="refused", **changed)) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert re.search(message, said.err)
