"""sae-eraser collect against real servers: it waits, reports, stops, and goes on to the same bytes."""

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from checkout import ROOT
from comfy_server import COMFYUI, SHAPECANVAS, arguments, place_link, prepare_base
from folder_contents import contents
from sae_eraser.training.cache.reader import Cache
from sae_eraser.training.cli import main
from sae_eraser.training.comfyui.server import ComfyUI, started_comfyui

MID, UP = "mid_block.attentions.0", "up_blocks.0.attentions.0"
SMALL_SHARDS = """
import sys

for name, module in list(sys.modules.items()):
    if name.endswith("nodes.collect.cache_filling"):
        module.SHARD_BYTES, module.SHARD_IMAGES = 50_000, 1

NODE_CLASS_MAPPINGS = {}
"""
"""A custom node that loads after the pack and makes shards of three pictures."""


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "prompts.csv"
    file.write_text("prompt,object,style\n" + "".join(f"a {o} in neon style,{o},neon\n" for o in ("star", "ring")))
    return file


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A base directory for ComfyUI, in which shards are small."""
    folder = tmp_path_factory.mktemp("comfyui")
    prepare_base(folder)
    (folder / "custom_nodes" / "zz_small_shards.py").write_text(SMALL_SHARDS)
    return folder


@pytest.fixture(scope="module")
def small(base) -> Iterator[ComfyUI]:
    """A server with small shards, on that base directory."""
    with started_comfyui(COMFYUI, arguments(base)) as comfyui:
        yield comfyui


def command(prompts: Path, name: str, *where, seeds: int = 12, **changed) -> list[str]:
    inputs = {"name": name, "hookpoints": f"{MID},{UP}", "seeds": seeds, "batch-size": 2}
    inputs |= {"steps": 2, "cfg": 3, "width": 64, "height": 64} | changed
    words = [word for option, value in inputs.items() for word in (f"--{option}", value)]
    line = ["collect", "--checkpoint", "shapecanvas.safetensors", "--prompts", prompts, *words, *where]
    return [str(word) for word in line]


def test_a_server_collects_what_the_options_say(small, base, prompts, capsys):
    line = command(
        prompts,
        "options",
        *("--server", small.url + "/"),
        seeds=2,
        **{"first-seed": 7, "sampler": "heun", "scheduler": "karras", "steps": 3, "width": 72, "height": 56},
        **{"storage": "int8", "keep-steps": 2, "keep-positions": 6, "sigma-min": 0.01, "sigma-max": 50},
        **{"branch": "both", "hooked": "residual", "shard": "1/1", "cfg": 2.5},
    )
    assert main(line) == 0
    folder = base / "output" / "sae_cache" / "options"
    assert capsys.readouterr().out == f"{folder} is complete: 4 pictures, 25.9 kB.\n"
    cache = Cache(folder)
    assert cache.shape(UP) == (4, 6, 128)
    assert cache.settings.hooked == "residual"
    assert cache.settings.storage == "int8"
    assert [image.seed for image in cache.settings.images] == [7, 7, 8, 8]
    assert cache.groups() == {"object": ["star", "ring"], "style": ["neon"]}
    assert cache.settings.sampling == {
        **{"steps": 3, "cfg": 2.5, "sampler_name": "heun", "scheduler": "karras", "width": 72, "height": 56},
        **{"keep_steps": 2, "keep_positions": 6, "sigma_min": 0.01, "sigma_max": 50.0, "branch": "both"},
    }
    for _ in range(2):  # the second time ComfyUI itself remembers the answer
        assert main(line) == 0
        assert "is complete" in capsys.readouterr().out
    before = contents(folder)
    shutil.rmtree(folder)
    assert main(line) == 0
    assert contents(folder) == before


def test_a_cache_of_another_checkpoint_is_not_taken_for_this_one(small, base, prompts, capsys):
    place_link(
        base / "models" / "checkpoints" / "other.safetensors", SHAPECANVAS / "weights" / "shapecanvas.safetensors"
    )
    line = command(prompts, "mine", "--server", small.url, seeds=1)
    assert main(line) == 0
    before = contents(base / "output" / "sae_cache" / "mine")
    assert main([word.replace("shapecanvas.", "other.") for word in line]) == 1
    assert re.search(
        r'holds a cache of another model. It has: #1 CheckpointLoaderSimple\(ckpt_name="shapecanvas.safetensors"\)\. '
        r'Now there is: #1 CheckpointLoaderSimple\(ckpt_name="other.safetensors"\)\. Choose another name',
        capsys.readouterr().err,
    )
    assert contents(base / "output" / "sae_cache" / "mine") == before


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"checkpoint": "none.safetensors"}, "ComfyUI refuses this: .*none.safetensors"),
        ({"sampler": "none"}, "ComfyUI refuses this: .*sampler_name: 'none' not in"),
        ({"steps": 0}, "ComfyUI refuses this: .*steps"),
        ({"hookpoints": "up_blocks.9.attentions.9"}, "no hookpoint 'up_blocks.9.attentions.9'. It has: "),
        ({"shard": "3/2"}, "shard '3/2' does not say which machine"),
    ],
)
def test_what_comfyui_refuses_is_said_in_a_line(small, base, prompts, capsys, changed, message):
    assert main(command(prompts, "refused", "--server", small.url, **changed)) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert re.search(message, said.err)
    assert not (base / "output" / "sae_cache" / "refused").exists()


def test_prompts_are_checked_before_comfyui_is_asked(tmp_path, capsys):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a star"}\n{"prompt": \n')
    assert main(command(tmp_path / "prompts.jsonl", "none", "--server", "http://127.0.0.1:1")) == 1
    assert "Line 2 of the prompts is no JSON object" in capsys.readouterr().err


def test_a_server_that_is_not_there(prompts, capsys):
    assert main(command(prompts, "none", "--server", "http://127.0.0.1:1")) == 1
    assert "ComfyUI at http://127.0.0.1:1 does not answer" in capsys.readouterr().err


def test_a_folder_that_is_no_comfyui(prompts, tmp_path, capsys):
    assert main(command(prompts, "none", "--comfyui", tmp_path)) == 1
    assert f"{tmp_path} is no ComfyUI: it has no main.py" in capsys.readouterr().err


def test_a_comfyui_that_does_not_start_shows_its_last_words(prompts, capsys):
    assert main(command(prompts, "none", "--comfyui", COMFYUI, "--comfyui-args", "--nonsense")) == 1
    assert re.search(
        "ComfyUI ended with status 2.*unrecognized arguments: --nonsense", capsys.readouterr().err, re.DOTALL
    )


@contextmanager
def running(line: list[str]) -> Iterator[subprocess.Popen]:
    """The command in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "training", *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_stop_while_comfyui_starts_stops_comfyui(prompts, tmp_path):
    prepare_base(tmp_path)
    with running(command(prompts, "none", "--comfyui", COMFYUI, "--comfyui-args", *arguments(tmp_path))) as process:
        assert "Starting ComfyUI" in process.stderr.readline()
        (comfyui,) = psutil.Process(process.pid).children()
        process.terminate()
        _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Stopped. Run the same command again" in said
    assert not comfyui.is_running()


def test_commands_wait_for_their_turn(small, base, prompts, capsys):
    """One is stopped while it waits; then the one that runs is interrupted in ComfyUI, and the last has its turn."""
    where, status = ("--server", small.url), {}

    def jobs(which: str) -> int:
        return len(small.request("/queue")[f"queue_{which}"])

    def run_long():
        status["long"] = main(command(prompts, "long", *where, steps=1000))

    def interrupt_it():
        wait_for(lambda: jobs("pending") == 1)
        small.request("/interrupt", {})

    long, interrupter = threading.Thread(target=run_long), threading.Thread(target=interrupt_it)
    long.start()
    wait_for(lambda: jobs("running") == 1)
    with running(command(prompts, "unwanted", *where)) as unwanted:
        wait_for(lambda: jobs("pending") == 1)
        unwanted.send_signal(signal.SIGINT)
        assert "Stopped. Run the same command again" in unwanted.communicate(timeout=30)[1]
    assert unwanted.returncode == 1
    assert (jobs("running"), jobs("pending")) == (1, 0)
    interrupter.start()
    assert main(command(prompts, "last", *where, steps=30, seeds=6, **{"keep-steps": 2})) == 0
    long.join()
    said = capsys.readouterr()
    assert status == {"long": 1}
    assert "was interrupted in ComfyUI. Run the same command again" in said.err
    assert re.search("of 12 pictures, 196.7 kB in all, [0-9:]+ left", said.err)
    caches = base / "output" / "sae_cache"
    assert said.out == f"{caches / 'last'} is complete: 12 pictures, 197.7 kB.\n"
    assert not (caches / "long").exists() and not (caches / "unwanted").exists()


def test_ctrl_c_before_comfyui_has_answered_ends_the_job_too(small, base, prompts, monkeypatch, capsys):
    request = ComfyUI.request

    def stopped(comfyui: ComfyUI, path: str, body: dict | None = None) -> dict:
        answer = request(comfyui, path, body)
        if path == "/prompt":
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.1)
        return answer

    monkeypatch.setattr(ComfyUI, "request", stopped)
    assert main(command(prompts, "unanswered", "--server", small.url, steps=1000)) == 1
    assert "Stopped. Run the same command again" in capsys.readouterr().err
    wait_for(lambda: not any(small.request("/queue").values()))
    assert not (base / "output" / "sae_cache" / "unanswered").exists()


@pytest.fixture(scope="module")
def whole(small, base, prompts) -> dict[str, bytes]:
    """What 60 pictures are that were collected in one go, in 20 shards."""
    assert main(command(prompts, "whole", "--server", small.url, seeds=30)) == 0
    collected = contents(base / "output" / "sae_cache" / "whole")
    assert len(collected) == 1 + 2 * 20
    return collected


def test_after_ctrl_c_the_same_command_goes_on_to_the_same_bytes(small, base, prompts, whole):
    folder = base / "output" / "sae_cache" / "stopped"
    line = command(prompts, "stopped", "--server", small.url, seeds=30)
    with running(line) as process:
        wait_for((folder / "shard-00002.json").exists)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Stopped. Run the same command again" in said
    wait_for(lambda: not small.request("/queue")["queue_running"])
    assert not (folder / "shard-00019.json").exists()
    assert main(line) == 0
    assert contents(folder) == whole


def test_a_killed_comfyui_loses_one_shard_and_the_rest_is_collected_by_one_that_the_command_starts(
    small, base, prompts, whole, capsys
):
    folder = base / "output" / "sae_cache" / "killed"

    def kill():
        wait_for(lambda: len(list(folder.glob("shard-*.json"))) >= 3)
        small.process.kill()
        small.process.wait()

    killer = threading.Thread(target=kill)
    killer.start()
    assert main(command(prompts, "killed", "--server", small.url, seeds=30)) == 1
    killer.join()
    assert f"ComfyUI at {small.url} does not answer" in capsys.readouterr().err
    before = contents(folder)
    finished = {name: before[name] for name in before if name.endswith(".json")}
    assert 3 < len(finished) < 21
    line = command(prompts, "killed", "--comfyui", COMFYUI, "--comfyui-args", *arguments(base), seeds=30)
    stamps = {name: (folder / name).stat().st_mtime_ns for name in finished}
    assert main(line) == 0
    assert capsys.readouterr().out == f"{folder} is complete: 60 pictures, 988.6 kB.\n"
    assert contents(folder) == whole
    assert {name: (folder / name).stat().st_mtime_ns for name in finished} == stamps
    assert not [process for process in psutil.Process().children() if str(base) in process.cmdline()]
