"""What the pack adds to ComfyUI's start."""

import json
import subprocess
import sys

import pytest

from checkout import ROOT

LOAD = """
import json, sys, tempfile
from pathlib import Path
from comfy_process import become_comfyui, load_pack, load_small_world
with tempfile.TemporaryDirectory() as folder:
    become_comfyui(Path(folder))
    import nodes, server  # as ComfyUI does before any pack
    load_small_world()  # another pack, for which ComfyUI's loader imports what it needs for any
    before = set(sys.modules)
    load_pack(Path(folder))
    print(json.dumps(sorted(set(sys.modules) - before)))
"""


@pytest.fixture(scope="module")
def added() -> list[str]:
    """The modules that a fresh ComfyUI imports for the pack alone."""
    run = subprocess.run([sys.executable, "-c", LOAD], cwd=ROOT / "tests", capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_the_pack_imports_nothing_else_that_comfyui_has_not_imported_already(added):
    assert "sae_eraser.nodes.erase.erase_concept" in added
    # tomllib is how ComfyUI's loader reads the pack's pyproject.toml.
    assert {name.partition(".")[0] for name in added} <= {"sae_eraser", "checkout", "tomllib"}


def test_of_the_trainer_only_the_cache_and_the_defaults_are_imported(added):
    trainer = [name.removeprefix("sae_eraser.training.") for name in added if name.startswith("sae_eraser.training.")]
    of_the_cache = ["layout", "manifest", "reader", "shards", "storage", "writer"]
    assert trainer == ["cache", *(f"cache.{name}" for name in of_the_cache), "config", "progress", "prompts"]
