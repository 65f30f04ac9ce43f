"""One server for all tests in this folder."""

from collections.abc import Iterator

import pytest

from comfy_server import Server, running_server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A running ComfyUI with the pack and the small world."""
    with running_server() as running:
        yield running
