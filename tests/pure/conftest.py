"""What several files of tests use."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from folder_contents import contents
from pure.to_judge import BRIGHTNESS
from pure.training_runs import QUICK, STEPS, train


@pytest.fixture
def brightness(tmp_path) -> Iterator[Path]:
    """A file with the functions of BRIGHTNESS, and one beside it that it imports."""
    (tmp_path / "brightness.py").write_text(BRIGHTNESS)
    (tmp_path / "beside.py").write_text("NAMES = ['white', 'black']\n")
    yield tmp_path / "brightness.py"
    sys.modules.pop("beside", None)


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "models" / "sae.safetensors"


@pytest.fixture
def refused(capsys, out) -> Callable[..., str]:
    """Runs a training that must fail before it writes anything; returns the one line that it prints."""

    def run(cache: Path, *options: object, to: Path = out) -> str:
        capsys.readouterr()
        before = contents(out.parent.parent)
        assert train(cache, to, *(STEPS if "--extend" in options else QUICK), *options) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        message = captured.err.rsplit("\r", 1)[-1]  # after the progress of reading the shards, which is wiped away
        assert message.startswith("sae-eraser: ") and message.count("\n") == 1
        assert "reconstruct:" not in captured.err and "supervise:" not in captured.err, (
            "this should have been found before training"
        )
        assert contents(out.parent.parent) == before
        return message

    return run
