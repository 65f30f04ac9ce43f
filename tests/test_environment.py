"""What `make` installs, and what it leaves alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from checkout import ROOT
from comfy_server import COMFYUI

ENVIRONMENT = ROOT / "tests" / "environment"
installed_by_make = pytest.mark.skipif(
    "COMFYUI_PATH" in os.environ, reason="COMFYUI_PATH is set: nothing was installed"
)


def make(*arguments: str) -> subprocess.CompletedProcess:
    """Run make apart from the one that may be running this test."""
    variables = {k: v for k, v in os.environ.items() if k in ("HOME", "PATH")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=variables, capture_output=True, text=True)


def requirements(text: str) -> list[Requirement]:
    """The requirements in a pip file that apply to this Python, without comments and hashes."""
    lines = [re.split(r"#|\\|--", line)[0].strip() for line in text.splitlines()]
    parsed = [Requirement(line) for line in lines if line and line[0].isalpha()]
    return [r for r in parsed if r.marker is None or r.marker.evaluate()]


@installed_by_make
def test_the_pinned_comfyui_is_there():
    version = re.search(r"ComfyUI ([\d.]+) ", (ENVIRONMENT / "comfyui.txt").read_text())[1]
    assert f'__version__ = "{version}"' in (COMFYUI / "comfyui_version.py").read_text()


@installed_by_make
def test_the_lock_has_what_comfyui_requires():
    lock = {r.name.lower(): r.specifier for r in requirements((ENVIRONMENT / "requirements.lock").read_text())}
    required = requirements((COMFYUI / "requirements.txt").read_text())
    assert required
    for requirement in required:
        pinned = str(lock[requirement.name.lower()]).removeprefix("==")
        assert requirement.specifier.contains(pinned), f"{requirement}, but the lock has {pinned}: run make lock"


@installed_by_make
def test_a_second_run_installs_nothing():
    assert make("--question", "setup").returncode == 0


@installed_by_make
def test_the_pack_is_installed_as_sae_eraser(tmp_path):
    command = [sys.executable, "-c", "import sae_eraser.training; print(sae_eraser.training.__file__)"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout.strip() == str(ROOT / "training" / "__init__.py"), run.stderr
    subprocess.run([Path(sys.executable).with_name("sae-eraser"), "--help"], cwd=tmp_path, check=True)


@pytest.fixture
def other_comfyui(tmp_path) -> Path:
    """Stands for a ComfyUI that the user has already."""
    comfyui = tmp_path / "My ComfyUI"
    comfyui.mkdir()
    (comfyui / "main.py").touch()
    return comfyui


@pytest.mark.parametrize("environment", [".venv", "venv"])
def test_another_comfyui_runs_with_its_own_python(other_comfyui, environment):
    python = other_comfyui / environment / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    assert f'"{python}" tests/comfy_server.py' in make("--dry-run", "comfy", f"COMFYUI_PATH={other_comfyui}").stdout


def test_another_comfyui_runs_with_the_python_it_is_told(other_comfyui):
    run = make("--dry-run", "comfy", f"COMFYUI_PATH={other_comfyui}", "PYTHON=python9")
    assert '"python9" tests/comfy_server.py' in run.stdout


def test_nothing_is_installed_into_another_comfyui(other_comfyui):
    run = make("--dry-run", "--always-make", "test", f"COMFYUI_PATH={other_comfyui}")
    assert '"python3" -m pytest' in run.stdout
    assert "venv" not in run.stdout
    assert ".comfyui" not in run.stdout


def test_a_folder_that_is_no_comfyui_is_refused(tmp_path):
    run = make("comfy", f"COMFYUI_PATH={tmp_path}")
    assert run.returncode != 0
    assert "is no ComfyUI" in run.stdout


def test_missing_tools_are_named(other_comfyui):
    run = make("lint", f"COMFYUI_PATH={other_comfyui}", "PYTHON=false")
    assert run.returncode != 0
    assert "pip install mypy pytest pytest-xdist ruff" in run.stdout
