"""What was measured so far, a file a measurement, so that a stopped run goes on where it was."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from sae_eraser.sae_ops.atomic_write import write_atomically

from .pictures import Judged


class Records:
    """A folder of measurements."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: dict, measure: Callable[[], Judged]) -> Judged:
        """The measurement with this description: read if it was made before, else made and written."""
        text = json.dumps(key, sort_keys=True)
        path = self.folder / (hashlib.sha256(text.encode()).hexdigest()[:24] + ".safetensors")
        if path.exists():
            with safe_open(path, framework="pt") as file:
                return Judged(**{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        found = measure()
        tensors = {name: tensor.contiguous() for name, tensor in found.tensors().items()}
        write_atomically(path, lambda part: save_file(tensors, part, metadata={"key": text}))
        return found
