"""What is said where the address is none, or something else than ComfyUI answers there."""

import re
import threading
import urllib.error
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sae_eraser.training.cli import main
from sae_eraser.training.comfyui import server as comfyui_server
from sae_eraser.training.comfyui.server import ComfyUI, ComfyUIError, run_graph, started_comfyui


def said_of(server: str, *more: str, tmp_path, capsys) -> str:
    (tmp_path / "prompts.csv").write_text("prompt,object\na star,star\n")
    line = ["collect", "--checkpoint", "c", "--prompts", str(tmp_path / "prompts.csv"), "--server", server]
    assert main([*line, *more]) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("address", ["", "127.0.0.1:8188"])
def test_what_is_no_address(tmp_path, capsys, address):
    said = said_of(address, tmp_path=tmp_path, capsys=capsys)
    assert f"'{address}' is no address. Write e.g. --server http://127.0.0.1:8188" in said


def test_arguments_for_a_comfyui_that_runs_already(tmp_path, capsys):
    said = said_of("http://127.0.0.1:1", "--comfyui-args", "--lowvram", tmp_path=tmp_path, capsys=capsys)
    assert "--comfyui-args are for a ComfyUI that --comfyui starts" in said


@pytest.mark.parametrize("option", ["--port", "--port=8190", "--listen"])
def test_a_comfyui_that_would_answer_elsewhere(tmp_path, option):
    (tmp_path / "main.py").write_text("raise SystemExit")
    with pytest.raises(ComfyUIError, match="--comfyui-args must be without --(port|listen).*--server"):
        with started_comfyui(tmp_path, ["--lowvram", option]):
            pass


@pytest.mark.parametrize(
    "kind, text, remedy",
    [
        ("OSError", "[Errno 28] No space left on device", "temp folder .*Free some space on that disk.*goes on"),
        ("sae_eraser.sae_ops.atomic_write.DiskFull", "The disk of x is full ([Errno 28] No space left on device).", ""),
        ("ValueError", "Give it another name.", ""),
    ],
)
def test_a_full_disk_that_comfyui_itself_finds_is_told_from_others(monkeypatch, kind, text, remedy):
    """As its PreviewImage leaves it in the history; errors of this pack's nodes say what to do."""
    facts = {"node_type": "PreviewImage", "exception_type": kind, "exception_message": text + "\n"}
    entry = {"status": {"messages": [["execution_start", {}], ["execution_error", facts]]}}
    answers = {"/prompt": {"prompt_id": "7"}, "/queue": {"queue_running": [], "queue_pending": []}}
    answers["/history/7"] = {"7": entry}
    monkeypatch.setattr(ComfyUI, "request", lambda self, path, body=None: answers[path])
    said = f"^PreviewImage: {re.escape(text)}" + (rf"\. ComfyUI at http://here .*{remedy}" if remedy else "$")
    with pytest.raises(ComfyUIError, match=said):
        run_graph(ComfyUI("http://here"), {})


def test_what_is_asked_is_asked_again_and_what_is_ordered_is_not(monkeypatch):
    """A server that hangs up without an answer may have made a job of it."""
    asked = []

    class HangsUp(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.command)

        do_POST = do_GET

    monkeypatch.setattr(comfyui_server, "POLL_SECONDS", 0)
    with HTTPServer(("127.0.0.1", 0), HangsUp) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        comfyui = ComfyUI(f"http://127.0.0.1:{server.server_port}")
        for body in (None, {"prompt": {}}):
            with pytest.raises(ComfyUIError, match="does not answer"):
                comfyui.request("/prompt", body)
        server.shutdown()
    assert asked == ["GET"] * 3 + ["POST"]


def test_a_proxy_that_cannot_reach_comfyui_for_a_moment_is_asked_again(monkeypatch):
    statuses = [502, 200, 504, 504, 504, 404, 503]

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(statuses.pop(0))
            self.end_headers()
            self.wfile.write(b"{}")

        do_POST = do_GET

    monkeypatch.setattr(comfyui_server, "POLL_SECONDS", 0)
    with HTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        comfyui = ComfyUI(f"http://127.0.0.1:{server.server_port}")
        assert comfyui.request("/queue") == {}
        with pytest.raises(ComfyUIError, match="does not answer .HTTP Error 504: Gateway Timeout.*same command again"):
            comfyui.request("/queue")
        for body in (None, {"prompt": {}}):
            with pytest.raises(urllib.error.HTTPError):
                comfyui.request("/prompt", body)
        server.shutdown()
    assert not statuses


@pytest.mark.parametrize("status, body", [(200, b"<html>"), (200, b"[]"), (404, b"")], ids=str)
def test_another_server(tmp_path, capsys, status, body):
    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert f"sae-eraser: {url} does not answer as a ComfyUI" in said_of(url, tmp_path=tmp_path, capsys=capsys)
        server.shutdown()
