"""sae_ops and training need no ComfyUI, and start without what only some trainings need."""

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


def test_sae_ops_and_training_import_without_comfyui():
    command = [sys.executable, "-c", IMPORT_ALL]
    run = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    modules = run.stdout.split()
    assert "sae_eraser.training.cli" in modules
    assert "sae_eraser.nodes" not in modules
    assert not {"comfy", "matplotlib", "scipy"} & set(modules), "these are imported where they are needed"
