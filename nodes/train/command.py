"""Runs commands of sae-eraser in a process of their own, which has its own memory and ends when ComfyUI cancels."""

import logging
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from comfy import model_management

SCRIPT = Path(__file__).resolve().parents[2] / "training"
POLL_SECONDS = 0.2
SECONDS_TO_END = 10
INPUTS = {"out": "name"}
"""Inputs of the nodes that are not called as the command's options are."""
COMMAND_ONLY = ("concept-latents", "guidance-weight")
"""Options that no node has."""
OFF_AT_0 = ("k", "threshold")
"""Options that a node leaves out by 0."""


def run_command(arguments: list[str], on_line: Callable[[str], object]) -> None:
    """Runs `sae-eraser ARGUMENTS` with ComfyUI's Python; on_line gets every line that it prints.

    Raises ValueError with what the command says is wrong, in the words of the nodes; RuntimeError if it ended in
    another way; InterruptProcessingException, as soon as ComfyUI is told to cancel. The process has ended then.
    """
    model_management.throw_exception_if_processing_interrupted()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-X", "utf8", str(SCRIPT), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            errors="replace",
            env=_environment(),
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        try:
            _pass_on(process, on_line)
            status = process.wait()
        finally:
            _end(process)
        errors.seek(0)
        said = errors.read().decode("utf-8", errors="replace").strip()
    if status == 0:
        if said:
            logging.warning("sae-eraser %s: %s", arguments[0], said)
        return
    fault = re.search(r"^sae-eraser: (.*)\Z", said, re.MULTILINE | re.DOTALL)
    if fault:
        raise ValueError(in_words_of_nodes(fault[1]))
    last = "\n".join(said.splitlines()[-15:])
    raise RuntimeError(
        f"'sae-eraser {arguments[0]}' ended with status {status}. If memory has run out, close other programs or ask "
        f"for less; then run the same again. Its last lines:\n{last}"
    )


def in_words_of_nodes(message: str) -> str:
    """The command's message with inputs of the nodes in place of its options: --skip-bad-shards is skip_bad_shards.

    Within words, as those of a path are, nothing is an option.
    """

    def in_words(option: re.Match) -> str:
        if option[1] in COMMAND_ONLY:
            return f"{option[0]} (in a terminal)"
        return INPUTS.get(option[1], option[1].replace("-", "_"))

    message = re.sub(rf"\bLeave out --({'|'.join(OFF_AT_0)})\.", r"Set \1 to 0.", message)
    return re.sub(r"(?<![^\s('\"])--([a-z]+(?:-[a-z]+)*)", in_words, message)


def _pass_on(process: subprocess.Popen, on_line: Callable[[str], object]) -> None:
    """Hands every line of the process's output to on_line until it closes it."""
    lines: queue.Queue[str | None] = queue.Queue()
    stdout = process.stdout
    assert stdout

    def read() -> None:
        with stdout:
            for line in stdout:
                lines.put(line.rstrip("\n"))
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        model_management.throw_exception_if_processing_interrupted()
        try:
            line = lines.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue
        if line is None:
            return
        on_line(line)


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    """The command's environment: this process's, but without a GPU if ComfyUI was told to use the CPU."""
    on_cpu = model_management.get_torch_device().type == "cpu"
    return os.environ | ({"CUDA_VISIBLE_DEVICES": "-1"} if on_cpu else {})
