"""Says how far a long sampling is: at its node, in the terminal, and to the commands that ask at PROGRESS_PATH."""

import time

import comfy.utils
from aiohttp import web
from server import PromptServer
from tqdm import tqdm

from ...training.progress import PROGRESS_PATH, progress_bar
from ..node_texts import say_at_node

_running: dict = {}
"""Of the node that runs: its name, images done and in all, and the text at its node."""


class SamplingProgress:
    """Shows how far one run of a node is, and how long the rest is likely to take; a context manager."""

    def __init__(self, name: str, node_id: str | None):
        self._name, self._node_id = name, node_id
        self._node_bar: comfy.utils.ProgressBar | None = None
        self._bar: tqdm | None = None

    def __enter__(self) -> "SamplingProgress":
        self._began = time.monotonic()
        return self

    def __exit__(self, *error) -> None:
        _running.clear()
        if self._bar is not None:
            self._bar.close()

    def show(self, done: int, images: int, sampled: int, size: int | None = None) -> None:
        """Images done and in all, how many were sampled since __enter__, and bytes of them all if they are kept."""
        kept = "" if size is None else f"{size_text(size)} in all, "
        seconds_left = (images - done) * (time.monotonic() - self._began) / sampled
        text = f"{done} of {images} pictures, {kept}{tqdm.format_interval(round(seconds_left))} left"
        _running.update(name=self._name, done=done, images=images, text=text)
        if self._bar is None or self._node_bar is None:
            self._bar = progress_bar(images)
            self._node_bar = comfy.utils.ProgressBar(images)
        self._bar.n, self._bar.total = done, images
        self._bar.set_description_str(f"{self._name}: {text}")
        say_at_node(text, self._node_id)
        self._node_bar.update_absolute(done, images)


def size_text(size: int) -> str:
    """Bytes for people, in units of 1000."""
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB") if size >= 1e6 else (1e3, "kB")
    return f"{size / unit:.1f} {name}"


def _offer_progress() -> None:
    """Answers at PROGRESS_PATH, unless another copy of the pack does: ComfyUI does not start with two answers there."""
    server = getattr(PromptServer, "instance", None)
    if server is None or any(route.path == PROGRESS_PATH for route in server.routes):
        return

    @server.routes.get(PROGRESS_PATH)
    async def progress(request):
        return web.json_response(_running)


_offer_progress()
