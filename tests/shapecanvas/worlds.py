"""Which of the two small worlds is meant: the usual one, or, with SHAPECANVAS=alike, one with objects more alike.

The second is for the tables alone.
"""

import os
from pathlib import Path

from checkout import ROOT

ALIKE = os.environ.get("SHAPECANVAS") == "alike"
WEIGHTS = Path(__file__).parent / "weights" / ("alike" if ALIKE else ".")
"""Where the checkpoint, the classifier and the SAEs of this world are."""
CHECKPOINT, CLASSIFIER = WEIGHTS / "shapecanvas.safetensors", WEIGHTS / "classifier.safetensors"
BASE = ROOT / (".comfyui-alike" if ALIKE else ".comfyui-base")
"""The folder in which a ComfyUI with it keeps its pictures and caches."""
