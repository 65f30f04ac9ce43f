"""A real ComfyUI with the pack and the small world; as a script, one for the browser."""

import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from checkout import ROOT
from shapecanvas.worlds import BASE, CHECKPOINT, WEIGHTS

COMFYUI = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".comfyui").resolve()
SHAPECANVAS = ROOT / "tests" / "shapecanvas"
START_SECONDS = 180


@dataclass
class Server:
    """A running ComfyUI: its address, and the folder it keeps everything in."""

    url: str
    base: Path

    def request(self, path: str, body: dict | None = None) -> dict:
        """The JSON answer to a GET of `path`, or to a POST when there is a body."""
        data = None if body is None else json.dumps(body).encode()
        # Without the proxies of the environment: the server is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.url + path, data, timeout=60) as answer:
            return json.load(answer)

    @property
    def log(self) -> str:
        """What the server has printed so far."""
        return (self.base / "server.log").read_text(errors="replace")


def prepare_base(base: Path, pack: Path = ROOT) -> None:
    """Fill a ComfyUI base directory with links to the pack, the small world and its weights."""
    place_link(base / "custom_nodes" / "sae-eraser", pack)
    place_link(base / "custom_nodes" / "shapecanvas", SHAPECANVAS / "extension")
    place_link(base / "models" / "checkpoints" / "shapecanvas.safetensors", CHECKPOINT)
    for stale in (base / "models" / "sae").glob("*.safetensors"):
        if stale.is_symlink() and not stale.exists():
            stale.unlink(missing_ok=True)
    for sae in WEIGHTS.glob("sae_*.safetensors"):
        place_link(base / "models" / "sae" / sae.name, sae)


def arguments(base: Path) -> list[str]:
    """What ComfyUI's main.py is told: no network, nothing written outside `base`, and what COMFYUI_ARGS says."""
    database = f"sqlite:///{base / 'comfyui.db'}"
    own = shlex.split(os.environ.get("COMFYUI_ARGS", "--cpu"))
    return [*own, "--disable-api-nodes", "--base-directory", str(base), "--database-url", database]


@contextmanager
def running_server(pack: Path = ROOT) -> Iterator[Server]:
    """A server with a base directory of its own; both are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="sae-eraser-") as folder:
        base = Path(folder)
        prepare_base(base, pack)
        port = _free_port()
        server = Server(f"http://127.0.0.1:{port}", base)
        with (base / "server.log").open("wb") as log:
            process = subprocess.Popen(_command(base, port), cwd=base, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_until_up(server, process)
            yield server
        finally:
            process.kill()
            process.wait()


def run_in_foreground(port: int = 8188) -> None:
    """Become a ComfyUI that keeps its pictures and workflows in `.comfyui-base`."""
    prepare_base(BASE)
    has_screen = sys.platform == "darwin" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    os.execv(sys.executable, _command(BASE, port) + ["--auto-launch"] * has_screen)


def _command(base: Path, port: int) -> list[str]:
    return [sys.executable, str(COMFYUI / "main.py"), "--port", str(port), *arguments(base)]


def place_link(link: Path, target: Path) -> None:
    """The link, in place of one that was there, at once: another process may do the same."""
    link.parent.mkdir(parents=True, exist_ok=True)
    new = link.with_name(f".{link.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    new.symlink_to(target.resolve(strict=True))
    new.replace(link)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_up(server: Server, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"ComfyUI ended with status {process.returncode}:\n{server.log[-4000:]}")
        try:
            server.request("/system_stats")
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"ComfyUI did not answer within {START_SECONDS} s:\n{server.log[-4000:]}")


if __name__ == "__main__":
    run_in_foreground()
