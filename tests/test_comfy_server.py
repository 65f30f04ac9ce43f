"""Starting and stopping a server, with a stand-in for ComfyUI."""

import sys
from concurrent.futures import ThreadPoolExecutor
from subprocess import run

import pytest

import comfy_server

ANSWERS = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def main_py(tmp_path, monkeypatch):
    """The main.py that is started instead of ComfyUI's."""
    monkeypatch.setattr(comfy_server, "COMFYUI", tmp_path)
    return tmp_path / "main.py"


def test_the_server_is_gone_after_an_error(main_py):
    main_py.write_text(ANSWERS)
    with pytest.raises(ZeroDivisionError), comfy_server.running_server() as server:
        assert server.request("/system_stats") == {}
        1 / 0  # noqa: B018
    with pytest.raises(OSError):
        server.request("/system_stats")
    assert not server.base.exists()


def test_a_server_that_dies_shows_its_log(main_py):
    main_py.write_text("raise SystemExit('torch is missing')")
    with pytest.raises(RuntimeError, match="status 1.*\n.*torch is missing"), comfy_server.running_server():
        pass


def test_several_processes_may_prepare_one_folder_at_once(tmp_path):
    again_and_again = (
        "import comfy_server, pathlib, sys\nfor _ in range(100): comfy_server.prepare_base(pathlib.Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", again_and_again, str(tmp_path)]
    with ThreadPoolExecutor() as both:
        ends = list(both.map(lambda _: run(command, cwd=comfy_server.ROOT / "tests", capture_output=True), range(2)))
    assert [end.stderr for end in ends] == [b"", b""]
    assert (tmp_path / "models" / "checkpoints" / "shapecanvas.safetensors").is_file()
