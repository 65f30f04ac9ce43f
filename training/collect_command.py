"""sae-eraser collect: lets a ComfyUI run the node Collect Activations, over HTTP. Imports nothing of ComfyUI."""

import argparse
import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from .progress import PROGRESS_PATH, progress_bar
from .prompts import read_prompts

NODE = "SAEEraser_CollectActivations"
GO_ON = "Run the same command again: it goes on with the shard it was at."
POLL_SECONDS = 0.5
ATTEMPTS = 3

INPUTS: tuple[tuple[str, str, type, str], ...] = (
    ("--hookpoints", "hookpoints", str, "blocks to read, separated by commas, e.g. up_blocks.1.attentions.1"),
    ("--name", "name", str, "the cache goes to ComfyUI's output/sae_cache/NAME"),
    ("--seeds", "seeds", int, "pictures of every prompt"),
    ("--first-seed", "first_seed", int, "the seed of the first of them"),
    ("--steps", "steps", int, "steps of the sampler"),
    ("--cfg", "cfg", float, "strength of classifier-free guidance"),
    ("--sampler", "sampler_name", str, "ComfyUI's name of a sampler, e.g. euler"),
    ("--scheduler", "scheduler", str, "ComfyUI's name of a scheduler, e.g. normal"),
    ("--width", "width", int, "of the pictures, in pixels"),
    ("--height", "height", int, "of the pictures, in pixels"),
    ("--batch-size", "batch_size", int, "pictures sampled at once"),
    ("--storage", "storage", str, "fp16, bf16 or int8"),
    ("--keep-steps", "keep_steps", int, "keep so many calls of the model, spread evenly; 0: all"),
    ("--keep-positions", "keep_positions", int, "keep so many positions of every map, drawn at random; 0: all"),
    ("--sigma-min", "sigma_min", float, "keep only calls at this noise level or above"),
    ("--sigma-max", "sigma_max", float, "keep only calls at this noise level or below; 0: no limit"),
    ("--branch", "branch", str, "cond, or both halves of guidance"),
    ("--hooked", "hooked", str, "output, or residual (output minus input)"),
    ("--shard", "shard", str, "2/4 on the second of four machines that fill one cache"),
)
"""Option, input of the node, type, help. The defaults are the node's."""


class CollectError(ValueError):
    """The collection did not end well; the message says why and what to do."""


@dataclass
class ComfyUI:
    """A ComfyUI that answers at `url`; its process and log if this command started it."""

    url: str
    process: subprocess.Popen | None = None
    log: Path | None = None

    def request(self, path: str, body: dict | None = None) -> dict:
        """The JSON answer to a GET, or to a POST when there is a body. Raises CollectError if there is no answer."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._request(path, body)
            except urllib.error.HTTPError:
                raise
            except (OSError, http.client.HTTPException) as error:
                self.raise_if_ended()
                if attempt == ATTEMPTS or body is not None:
                    raise CollectError(
                        f"ComfyUI at {self.url} does not answer ({error}). Start it, and run the same command again: "
                        "it goes on with the shard it was at."
                    ) from error
                time.sleep(POLL_SECONDS)
        raise AssertionError

    def answers(self) -> bool:
        """Whether it has started."""
        try:
            self._request("/system_stats", None)
            return True
        except (OSError, http.client.HTTPException):
            return False

    def raise_if_ended(self) -> None:
        """Raises CollectError with the last lines of the log if this command started it and it has ended."""
        if self.process is None or self.log is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self.process.wait(timeout=1)
            lines = self.log.read_text(errors="replace").splitlines()[-15:]
            raise CollectError(f"ComfyUI ended with status {status}. {GO_ON} Its last lines:\n" + "\n".join(lines))

    def _request(self, path: str, body: dict | None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        # Without the proxies of the environment, which rarely reach a machine of one's own.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with opener.open(request, timeout=60) as answer:
            content = answer.read()
        return json.loads(content) if content else {}


def add_command(commands) -> None:
    """Adds `collect` to the subparsers of the command line."""
    parser = commands.add_parser(
        "collect",
        help="sample labelled prompts in a ComfyUI and cache the activations",
        description="Does what the node Collect Activations does. Options that are not given are the node's defaults.",
    )
    parser.set_defaults(command=collect)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--comfyui", type=Path, metavar="FOLDER", help="start the ComfyUI in this folder, then stop it")
    where.add_argument("--server", metavar="URL", help="use a ComfyUI that runs, e.g. http://127.0.0.1:8188")
    parser.add_argument("--checkpoint", required=True, metavar="NAME", help="file in ComfyUI's models/checkpoints")
    parser.add_argument("--prompts", required=True, type=Path, metavar="FILE", help="JSON lines, or CSV with a header")
    for option, name, kind, text in INPUTS:
        parser.add_argument(option, dest=name, type=kind, help=text)
    parser.add_argument(
        "--comfyui-args",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="...",
        help="all that follows goes to ComfyUI's main.py, with --comfyui",
    )


def collect(options: argparse.Namespace) -> None:
    """Runs the node to its end, showing how far it is. Raises CollectError, also after Ctrl-C; ValueError; OSError."""
    prompts = options.prompts.read_text(encoding="utf-8-sig")
    read_prompts(prompts)  # a mistake in them shows before ComfyUI starts
    inputs = {name: getattr(options, name) for _, name, _, _ in INPUTS if getattr(options, name) is not None}
    running = (
        contextlib.nullcontext(ComfyUI(options.server.rstrip("/")))
        if options.server
        else started_comfyui(options.comfyui, options.comfyui_args)
    )
    try:
        with running as comfyui:
            print(_run(comfyui, options.checkpoint, {"prompts": prompts, **inputs}))
    except KeyboardInterrupt:
        raise CollectError(f"Stopped. {GO_ON}") from None


@contextlib.contextmanager
def started_comfyui(folder: Path, arguments: list[str]) -> Iterator[ComfyUI]:
    """A ComfyUI of this folder, run by this Python on a free port; stopped afterwards. Raises CollectError."""
    if not (folder / "main.py").is_file():
        raise CollectError(f"{folder} is no ComfyUI: it has no main.py.")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with _sigterm_as_ctrl_c(), tempfile.TemporaryDirectory(prefix="sae-eraser-") as place:
        log = Path(place, "comfyui.log")
        command = [sys.executable, str(folder.resolve() / "main.py"), "--port", str(port), *arguments]
        with log.open("wb") as file:
            # In a session of its own: Ctrl-C is for this command, which then stops it.
            process = subprocess.Popen(
                command, cwd=folder, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            comfyui = ComfyUI(f"http://127.0.0.1:{port}", process, log)
            print(f"Starting ComfyUI in {folder}", file=sys.stderr)
            while not comfyui.answers():
                comfyui.raise_if_ended()
            yield comfyui
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """So that a command which is ended stops the ComfyUI that it started."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(comfyui: ComfyUI, checkpoint: str, inputs: dict) -> str:
    """What the node says at its end. Raises CollectError."""
    schema = comfyui.request(f"/object_info/{NODE}").get(NODE)
    if schema is None:
        raise CollectError(f"ComfyUI at {comfyui.url} has no node {NODE}. Install SAE Eraser there and restart it.")
    known = schema["input"].get("required", {}) | schema["input"].get("optional", {})
    defaults = {name: spec[1]["default"] for name, spec in known.items() if "default" in spec[1]}
    inputs = {**defaults, **inputs, "model": ["checkpoint", 0], "clip": ["checkpoint", 1]}
    graph = {
        "checkpoint": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "collect": {"class_type": NODE, "inputs": inputs},
    }
    try:
        prompt_id = comfyui.request("/prompt", {"prompt": graph})["prompt_id"]
    except urllib.error.HTTPError as error:
        raise CollectError(f"ComfyUI refuses this: {_refusal(error.read())}") from error
    try:
        entry = _wait(comfyui, prompt_id, inputs["name"].strip())
    except KeyboardInterrupt:
        comfyui.request("/queue", {"delete": [prompt_id]})
        comfyui.request("/interrupt", {"prompt_id": prompt_id})
        raise
    for kind, facts in entry["status"]["messages"]:
        if kind == "execution_error":
            raise CollectError(f"{facts['node_type']}: {facts['exception_message'].strip()}")
        if kind == "execution_interrupted":
            raise CollectError(f"The run was interrupted in ComfyUI. {GO_ON}")
    return entry["outputs"]["collect"]["text"][0]


def _wait(comfyui: ComfyUI, prompt_id: str, name: str) -> dict:
    """ComfyUI's history of the prompt, once it has ended."""
    bar: tqdm | None = None
    try:
        while True:
            progress = comfyui.request(PROGRESS_PATH)
            dropped = False
            if progress.get("name") == name:
                bar = bar or progress_bar(progress["images"])
                bar.n = progress["done"]
                bar.set_description_str(progress["text"])
            else:
                queue = comfyui.request("/queue")
                dropped = all(item[1] != prompt_id for item in queue["queue_running"] + queue["queue_pending"])
            ended = comfyui.request(f"/history/{prompt_id}").get(prompt_id)
            if ended:
                return ended
            if dropped:
                raise CollectError(f"ComfyUI at {comfyui.url} has dropped the job. {GO_ON}")
            time.sleep(POLL_SECONDS)
    finally:
        if bar is not None:
            bar.close()


def _refusal(answer: bytes) -> str:
    """What ComfyUI has against a prompt, in a line."""
    try:
        refusal = json.loads(answer)
        errors = [error for node in refusal["node_errors"].values() for error in node["errors"]] or [refusal["error"]]
        return "; ".join(f"{error['message']}: {error['details']}" for error in errors)
    except (KeyError, TypeError, AttributeError, ValueError):
        return answer.decode(errors="replace")[:500]
