"""A ComfyUI spoken to over HTTP: started here or already running, given graphs to run. Imports nothing of ComfyUI."""

import argparse
import contextlib
import errno
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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

GO_ON = "Run the same command again: it goes on where it was."
ATTEMPTS = 3
FIRST_POLL_SECONDS, POLL_SECONDS = 0.02, 0.5
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Without the proxies of the environment, which rarely reach a machine of one's own.

Built here, once: Python can lose a Ctrl-C while it builds one (an int() in it that fails takes its place).
"""


class ComfyUIError(ValueError):
    """ComfyUI did not do what was asked; the message says why and what to do."""


@dataclass
class ComfyUI:
    """A ComfyUI that answers at `url`; its process and log if this command started it."""

    url: str
    process: subprocess.Popen | None = None
    log: Path | None = None

    def request(self, path: str, body: dict | None = None) -> dict:
        """The JSON answer to a GET, or to a POST when there is a body. Raises ComfyUIError if there is no answer."""
        content = self.fetch(path, None if body is None else json.dumps(body).encode())
        return json.loads(content) if content else {}

    def fetch(self, path: str, data: bytes | None = None) -> bytes:
        """The answer as it is. Raises ComfyUIError if there is none, HTTPError if ComfyUI refuses.

        What is asked is asked again where a proxy says, with a status of 500 or more, that ComfyUI does not answer.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._fetch(path, data)
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, urllib.error.HTTPError) and (error.code < 500 or data is not None):
                    raise  # what ComfyUI says itself, and no proxy that cannot reach it for a moment
                self.raise_if_ended()
                if attempt == ATTEMPTS or data is not None:
                    raise ComfyUIError(f"ComfyUI at {self.url} does not answer ({error}). Start it. {GO_ON}") from error
                time.sleep(POLL_SECONDS)
        raise AssertionError

    def answers(self) -> bool:
        """Whether it has started."""
        try:
            self._fetch("/system_stats", None)
            return True
        except (OSError, http.client.HTTPException):
            return False

    def raise_if_ended(self) -> None:
        """Raises ComfyUIError with the last lines of the log if this command started it and it has ended."""
        if self.process is None or self.log is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self.process.wait(timeout=1)
            lines = self.log.read_text(errors="replace").splitlines()[-15:]
            raise ComfyUIError(f"ComfyUI ended with status {status}. {GO_ON} Its last lines:\n" + "\n".join(lines))

    def _fetch(self, path: str, data: bytes | None) -> bytes:
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with OPENER.open(request, timeout=60) as answer:
            return answer.read()


def add_comfyui_options(parser: argparse.ArgumentParser) -> None:
    """Adds --comfyui, --server and --comfyui-args, which `chosen_comfyui` reads."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--comfyui", type=Path, metavar="FOLDER", help="folder of a ComfyUI to start, and to stop at the end"
    )
    where.add_argument("--server", metavar="URL", help="address of a ComfyUI that runs, e.g. http://127.0.0.1:8188")
    parser.add_argument(
        "--comfyui-args",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="...",
        help="arguments for the main.py of the ComfyUI that --comfyui starts: all that follow",
    )


@contextlib.contextmanager
def chosen_comfyui(options: argparse.Namespace) -> Iterator[ComfyUI]:
    """The ComfyUI of the options, stopped afterwards if this started it. Raises ComfyUIError, also after Ctrl-C."""
    try:
        if options.server is not None:
            if not options.server.startswith(("http://", "https://")):
                raise ComfyUIError(f"'{options.server}' is no address. Write e.g. --server http://127.0.0.1:8188")
            if options.comfyui_args:
                raise ComfyUIError("--comfyui-args are for a ComfyUI that --comfyui starts; the one at --server runs.")
            yield ComfyUI(options.server.rstrip("/"))
        else:
            with started_comfyui(options.comfyui, options.comfyui_args) as comfyui:
                yield comfyui
    except KeyboardInterrupt:
        raise ComfyUIError(f"Stopped. {GO_ON}") from None


@contextlib.contextmanager
def started_comfyui(folder: Path, arguments: list[str]) -> Iterator[ComfyUI]:
    """A ComfyUI of this folder, run by this Python on a free port; stopped afterwards. Raises ComfyUIError."""
    for option in ("--port", "--listen"):
        if any(argument.partition("=")[0] == option for argument in arguments):
            raise ComfyUIError(
                f"--comfyui-args must be without {option}: this ComfyUI is started at an address of its own. Leave it "
                "out, or start ComfyUI yourself and give its address as --server."
            )
    if not (folder / "main.py").is_file():
        raise ComfyUIError(f"{folder} is no ComfyUI: it has no main.py. Give as --comfyui the folder that holds it.")
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


def node_schema(comfyui: ComfyUI, node: str) -> dict:
    """What ComfyUI says of a node of this pack. Raises ComfyUIError if it does not have it, or is something else."""
    try:
        schema = comfyui.request(f"/object_info/{node}").get(node)
    except (AttributeError, urllib.error.HTTPError, json.JSONDecodeError) as error:
        raise ComfyUIError(f"{comfyui.url} does not answer as a ComfyUI does ({error}). Check the address.") from error
    if schema is None:
        raise ComfyUIError(f"ComfyUI at {comfyui.url} has no node {node}. Install SAE Eraser there and restart it.")
    return schema


def default_inputs(schema: dict) -> dict:
    """The inputs of a node that have a default, as it is."""
    known = schema["input"].get("required", {}) | schema["input"].get("optional", {})
    return {name: spec[1]["default"] for name, spec in known.items() if len(spec) > 1 and "default" in spec[1]}


def run_graph(comfyui: ComfyUI, graph: dict, while_waiting: Callable[[], object] = lambda: None) -> dict:
    """Runs a graph in ComfyUI's API format to its end; returns its entry in ComfyUI's history.

    The entry has "outputs", by node: what its output nodes showed. `while_waiting` is called before every look at how
    far it is. Ctrl-C takes the job out of ComfyUI too. Raises ComfyUIError if the graph is refused, fails, is
    interrupted or dropped.
    """
    # Posted by a thread, whose answer is there to be read after Ctrl-C too: it names the job.
    with ThreadPoolExecutor(1) as pool:
        posted = pool.submit(_post, comfyui, graph)
        try:
            entry = _wait(comfyui, posted.result(), while_waiting)
        except KeyboardInterrupt:
            prompt_id = posted.result()
            comfyui.request("/queue", {"delete": [prompt_id]})
            comfyui.request("/interrupt", {"prompt_id": prompt_id})
            raise
    for kind, facts in entry["status"]["messages"]:
        if kind == "execution_error":
            raise ComfyUIError(f"{facts['node_type']}: {facts['exception_message'].strip()}{_remedy(comfyui, facts)}")
        if kind == "execution_interrupted":
            raise ComfyUIError(f"The run was interrupted in ComfyUI. {GO_ON}")
    return entry


def _remedy(comfyui: ComfyUI, facts: dict) -> str:
    """What to do about an error of a node, if it is one of a disk that ComfyUI itself has found full."""
    if facts["exception_type"] != "OSError" or f"[Errno {errno.ENOSPC}]" not in facts["exception_message"]:
        return ""
    return (
        f". ComfyUI at {comfyui.url} cannot write its pictures, which are in its temp folder until it starts anew. "
        f"Free some space on that disk, or restart it. {GO_ON}"
    )


def _post(comfyui: ComfyUI, graph: dict) -> str:
    """The id of the job that ComfyUI makes of the graph. Raises ComfyUIError if it refuses."""
    try:
        return comfyui.request("/prompt", {"prompt": graph})["prompt_id"]
    except urllib.error.HTTPError as error:
        raise ComfyUIError(f"ComfyUI refuses this: {_refusal(error.read())}") from error


def _wait(comfyui: ComfyUI, prompt_id: str, while_waiting: Callable[[], object]) -> dict:
    """ComfyUI's history of the prompt, once it has ended."""
    seconds = FIRST_POLL_SECONDS
    while True:
        while_waiting()
        queue = comfyui.request("/queue")
        dropped = all(item[1] != prompt_id for item in queue["queue_running"] + queue["queue_pending"])
        ended = comfyui.request(f"/history/{prompt_id}").get(prompt_id)
        if ended:
            return ended
        if dropped:
            raise ComfyUIError(f"ComfyUI at {comfyui.url} has dropped the job. {GO_ON}")
        time.sleep(seconds)
        seconds = min(POLL_SECONDS, seconds * 1.5)


def _refusal(answer: bytes) -> str:
    """In one line, why ComfyUI refused a prompt."""
    try:
        refusal = json.loads(answer)
        errors = [error for node in refusal["node_errors"].values() for error in node["errors"]] or [refusal["error"]]
        return "; ".join(f"{error['message']}: {error['details']}" for error in errors)
    except (KeyError, TypeError, AttributeError, ValueError):
        return answer.decode(errors="replace")[:500]
