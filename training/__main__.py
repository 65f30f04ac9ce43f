"""Runs sae-eraser without installing it: python custom_nodes/sae-eraser/training train CACHE --out FILE"""

import importlib
import importlib.util
import sys
from pathlib import Path

if not __package__:
    here = Path(__file__).resolve().parent
    sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != here]  # else `import config` finds ours
    root = here.parent
    spec = importlib.util.spec_from_file_location(
        "sae_eraser", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec and spec.loader
    sys.modules["sae_eraser"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["sae_eraser"])

if __name__ == "__main__":
    sys.exit(importlib.import_module("sae_eraser.training.cli").main())
