"""A server and a browser for all tests in this folder, and a page of its own for each test."""

import os
import re
from collections.abc import Iterator

import pytest

from browser.comfy_page import ComfyPage
from checkout import ROOT
from comfy_server import Server, running_server

SCREENSHOTS = ROOT / "output" / "screenshots"
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Closed after each file: Playwright's event loop keeps others from starting in this process while it runs."""
    if "COMFYUI_PATH" in os.environ:
        pytest.importorskip("playwright")
    from playwright.sync_api import sync_playwright

    from browser.chromium import find_chromium

    path = find_chromium()
    if not path:
        assert "COMFYUI_PATH" in os.environ, "There is no Chromium any more: rm .venv/.chromium && make setup"
        pytest.skip("There is no Chromium or Chrome here. Install one, or set CHROMIUM=its path.")
    with sync_playwright() as playwright:
        with playwright.chromium.launch(executable_path=path, args=QUIET) as launched:
            yield launched


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A running ComfyUI of which the tests may change folders and settings."""
    with running_server() as running:
        yield running


@pytest.fixture
def comfy(browser, server, request) -> Iterator[ComfyPage]:
    """ComfyUI's page in a new window, not yet opened. Errors of the pack's own scripts fail the test."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with browser.new_context(viewport={"width": 1600, "height": 900}) as context:
        name = re.sub(r"\W+", "_", request.node.name).strip("_")
        page = ComfyPage(context.new_page(), server, SCREENSHOTS, name)
        yield page
        page.screenshot("end")
    assert not page.errors
