"""sae_ops and training need no ComfyUI, and start without what only some commands need."""

import subprocess
import sys

from checkout import ROOT

IMPORT_ALL = """
import importlib, pkgutil, sys
import checkout
checkout.import_root()
for package in ("sae_eraser.sae_ops", "sae_eraser.training"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(module.name)
print(*sys.modules)
"""

START = """
import sys
import checkout
checkout.import_root()
from sae_eraser.training.cli import command_line
for command in (None, "locate", "collect"):
    command_line(command)
print(*sys.modules)
"""


def test_sae_ops_and_training_import_without_comfyui():
    modules = modules_after(IMPORT_ALL)
    assert "sae_eraser.training.cli" in modules
    assert "sae_eraser.nodes" not in modules
    assert not {"comfy", "matplotlib", "scipy"} & modules, "these are imported where they are needed"


def test_the_command_line_starts_without_torch_where_a_comfyui_does_the_work():
    """Importing torch takes seconds, which `--help` should not."""
    modules = modules_after(START)
    assert "sae_eraser.training.commands.collect_command" in modules
    assert not {"torch", "numpy"} & modules


def modules_after(code: str) -> set[str]:
    """The names of what a Python of its own has imported when it has run this."""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tests", capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())
