"""Commands in processes of their own: they end with ComfyUI's cancel, and say what is wrong."""

import threading
import time

import pytest
from comfy import model_management
from comfy.model_management import InterruptProcessingException

from sae_eraser.nodes.train import command
from sae_eraser.nodes.train.command import in_words_of_nodes, run_command


@pytest.fixture
def script(pack, tmp_path, monkeypatch):
    """script(text) makes this Python text stand for the command."""

    def write(text: str) -> None:
        (tmp_path / "a command.py").write_text(text, encoding="utf-8")
        monkeypatch.setattr(command, "SCRIPT", tmp_path / "a command.py")

    return write


def test_every_line_is_passed_on(script):
    script("import sys; print(*sys.argv[1:], sep='\\n'); print('ünd so wéiter', end='')")
    lines: list[str] = []
    run_command(["train", "a folder/ß"], lines.append)
    assert lines == ["train", "a folder/ß", "ünd so wéiter"]


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_silent_command_ends_when_comfyui_cancels(script, tmp_path, monkeypatch, stubborn):
    monkeypatch.setattr(command, "SECONDS_TO_END", 0.5)
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if stubborn else ""
    script(
        f"import pathlib, signal, time\n{ignore}\nprint('ready', flush=True)\ntime.sleep(3)\n"
        f"pathlib.Path({str(tmp_path / 'end')!r}).touch()"
    )
    began = time.monotonic()
    cancel = threading.Timer(0.3, model_management.interrupt_current_processing)
    with pytest.raises(InterruptProcessingException):
        run_command(["train"], lambda line: cancel.start())
    assert time.monotonic() - began < 3
    time.sleep(max(0.0, began + 4 - time.monotonic()))
    assert not (tmp_path / "end").exists()


def test_a_fault_of_the_listener_ends_it_too(script, tmp_path):
    script(
        f"import pathlib, time\nprint(1, flush=True)\ntime.sleep(2)\npathlib.Path({str(tmp_path / 'end')!r}).touch()"
    )

    def listen(line):
        raise KeyError(line)

    with pytest.raises(KeyError):
        run_command(["train"], listen)
    time.sleep(2.5)
    assert not (tmp_path / "end").exists()


def test_what_the_command_says_is_wrong_is_told(script):
    script(
        "import sys; print('a warning\\nsae-eraser: x.safetensors exists. Choose another --out, or pass --overwrite.', "
        "file=sys.stderr); sys.exit(1)"
    )
    with pytest.raises(ValueError, match=r"^x.safetensors exists\. Choose another name, or pass overwrite\.$"):
        run_command(["train"], print)


def test_a_crash_is_told_with_its_last_lines(script):
    script("import os, signal, sys; print('out of memory', file=sys.stderr, flush=True); os._exit(7)")
    with pytest.raises(RuntimeError, match="'sae-eraser train' ended with status 7.*memory(.|\n)*out of memory"):
        run_command(["train"], print)


def test_options_are_inputs():
    text = "Pass --skip-bad-shards, or --k; up--down and a - b stay"
    assert in_words_of_nodes(text).startswith("Pass skip_bad_shards, or k;")
    for path in ("/hub/models--owner--name/sae.safetensors", "C:\\runs--old\\--my-cache", "a/--out/b"):
        text = f"{path}: nothing says what 'k' is; pass it with --k ('--k' or --k=3), or (--hooked)."
        assert in_words_of_nodes(text) == f"{path}: nothing says what 'k' is; pass it with k ('k' or k=3), or (hooked)."
    text = "Choose more --latents or fewer --concept-latents."
    assert in_words_of_nodes(text) == "Choose more latents or fewer --concept-latents (in a terminal)."
