"""Checkpoints of a training: written atomically, the last two kept, read back by the same training alone."""

import contextlib
import hashlib
import json
import re
import shutil
import warnings
from pathlib import Path

import torch

from ..sae_ops.atomic_write import PART, write_atomically


class Checkpoints:
    """The checkpoints in one folder."""

    def __init__(self, folder: Path, settings: dict, restart: bool = False):
        """settings: plain values that must be the same for a training to go on.

        restart: forget what is there. Raises ValueError if the folder holds the checkpoints of another training.
        """
        self.folder = folder
        self._damaged: list[Path] = []
        self._fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        if restart:
            self.remove()
        self._refuse_others()

    def _refuse_others(self) -> None:
        known = self.folder / "settings.sha256"
        if self._paths() and not (known.exists() and known.read_text() == self._fingerprint):
            raise ValueError(
                f"{self.folder} holds an unfinished training with other settings or another cache. Use the same "
                "settings to go on with it, --restart to begin anew, or another --out."
            )

    def save(self, number: int, state: dict) -> None:
        """number rises from one checkpoint to the next, but for those that could not be read, which go now.

        Raises ValueError if another training, which began when there was none yet, has saved here.
        """
        self._refuse_others()
        write_atomically(self.folder / "settings.sha256", lambda part: part.write_text(self._fingerprint))
        write_atomically(self.folder / f"{number:09d}.pt", lambda part: torch.save(state, part))
        while self._damaged:  # they would count as the last ones
            self._damaged.pop().unlink(missing_ok=True)
        for path in self._paths()[:-2]:
            path.unlink(missing_ok=True)  # the same training may have been started twice

    def load(self) -> dict | None:
        """The last one that can be read, or None."""
        for path in reversed(self._paths()):
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # whatever is wrong with it, the one before may be whole
                self._damaged.append(path)
                name = type(error).__name__  # the message of torch.load advises to give up its safety
                warnings.warn(f"{path} cannot be read ({name}); going back to the checkpoint before.", stacklevel=2)
        return None

    def remove(self) -> None:
        """Deletes all that came from here, and the folder if nothing else is in it.

        The fingerprint goes last: after a stop no other training shall take what is left for its own.
        """
        if not self.folder.is_dir():
            return
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name.startswith("settings")):
            if re.fullmatch(rf"(settings\.sha256|\d{{9}}\.pt)({PART})?", path.name):
                with contextlib.suppress(OSError):  # other processes remove them too
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.pt") if re.fullmatch(r"\d{9}", path.stem))
