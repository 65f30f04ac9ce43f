"""Starting and stopping a server, with a stand-in for ComfyUI."""

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
