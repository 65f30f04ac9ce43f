"""One server for all tests in this folder."""

import signal
from collections.abc import Iterator

import pytest

from comfy_server import Server, running_server

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and theirs, else ignore Ctrl-C


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A running ComfyUI with the pack and the small world."""
    with running_server() as running:
        yield running
