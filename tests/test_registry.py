"""The pack as the Comfy registry sees it."""

import os
import subprocess
import sys

import pytest

from checkout import ROOT


def test_the_registry_would_accept_the_pack(tmp_path):
    pytest.importorskip("comfy_cli")
    command = [sys.executable, "-m", "comfy_cli", "--skip-prompt", "node", "validate"]
    variables = os.environ | {"HOME": str(tmp_path), "DO_NOT_TRACK": "1"}
    run = subprocess.run(command, cwd=ROOT, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert run.returncode == 0, run.stdout
    assert "All validation checks passed" in run.stdout
    assert "Warning" not in run.stdout
