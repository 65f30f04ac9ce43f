"""This checkout: where it lies, and its root as the package `sae_eraser` without installing it."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def import_root() -> None:
    """Import the repository root as `sae_eraser`, the way ComfyUI imports a pack's folder."""
    spec = importlib.util.spec_from_file_location("sae_eraser", ROOT / "__init__.py")
    package = importlib.util.module_from_spec(spec)
    sys.modules["sae_eraser"] = package
    spec.loader.exec_module(package)
