"""One server for all tests in this folder."""

import signal
import time
from collections.abc import Iterator

import pytest

from comfy_server import Server, running_server

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and theirs, else ignore Ctrl-C


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A running ComfyUI with the pack and the small world."""
    with running_server() as running:
        yield running


@pytest.fixture
def tidied(server: Server) -> Iterator[Server]:
    """The server, in which what a workflow trains is gone afterwards."""
    folder = server.base / "models" / "sae"
    before = set(folder.iterdir())
    yield server
    for path in set(folder.iterdir()) - before:
        path.unlink()


@pytest.fixture
def run(server: Server):
    """run(graph) -> its entry in the history, once it has ended."""

    def go(prompt: dict) -> dict:
        number = server.request("/prompt", {"prompt": prompt})["prompt_id"]
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if entry := server.request(f"/history/{number}").get(number):
                return entry
            time.sleep(0.1)
        raise TimeoutError(server.log[-4000:])

    return go
