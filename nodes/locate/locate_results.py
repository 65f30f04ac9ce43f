"""What Locate Concept has measured, kept in a file, so that a stopped run goes on."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ...sae_ops.atomic_write import write_atomically
from ...sae_ops.moved import Moved
from .locate_inputs import Range

REMEDY = "Choose another name, or delete that file."


@dataclass(frozen=True)
class Exchanged:
    """What moved when these hookpoints were exchanged together."""

    hookpoints: tuple[str, ...]
    when: Range
    sigmas: tuple[float, float]
    """The first and the last noise level at which they were exchanged."""
    moved: Moved


class LocateResults:
    """The measurements of one file; all were made with the same settings, on the same original pictures."""

    def __init__(self, path: Path, settings: dict):
        """settings: whatever JSON can hold.

        Raises ValueError if the file cannot be read, or has measurements made with other settings.
        """
        self.path, self._settings = path, settings
        self._originals: list[float] = []
        self._measured: dict[tuple[tuple[str, ...], Range], Exchanged] = {}
        if path.exists():
            self._read()

    def start(self, originals: torch.Tensor) -> None:
        """Before the first measurement: originals are latents [pictures, ...].

        Raises ValueError if the file has measurements of another model, which drew other pictures, or of fewer or more.
        """
        then = self._originals
        if then and len(then) != len(originals):
            raise ValueError(
                f"{self.path} cannot be read (it has numbers for {len(then)} pictures, not {len(originals)}). {REMEDY}"
            )
        self._originals = [round(value, 4) for value in originals.flatten(1).std(dim=1).tolist()]
        if then and not torch.allclose(torch.tensor(self._originals), torch.tensor(then), rtol=0.02):
            raise ValueError(f"{self.path} was measured with another model: it draws other pictures. {REMEDY}")

    def get(self, hookpoints: tuple[str, ...], when: Range) -> Exchanged | None:
        return self._measured.get((hookpoints, when))

    def add(self, measurement: Exchanged) -> None:
        """Keeps the measurement, on disk too."""
        self._measured[measurement.hookpoints, measurement.when] = measurement
        write_atomically(self.path, lambda part: part.write_text(self.json()))

    def json(self) -> str:
        """Settings, originals and measurements, as the file has them."""
        measured = [
            asdict(measurement) | {name: getattr(measurement.moved, name) for name in ("share", "broken")}
            for measurement in self._measured.values()
        ]
        return json.dumps({"settings": self._settings, "originals": self._originals, "measured": measured}, indent=1)

    def _read(self) -> None:
        try:
            found = json.loads(self.path.read_text())
            differing = [name for name, value in self._settings.items() if found["settings"].get(name) != value]
            for row in found["measured"]:
                moved, (first, last) = Moved(**row["moved"]), map(float, row["sigmas"])
                measurement = Exchanged(tuple(row["hookpoints"]), Range(**row["when"]), (first, last), moved)
                self._measured[measurement.hookpoints, measurement.when] = measurement
            measured = [
                numbers for known in self._measured.values() for numbers in (known.moved.lead, known.moved.worse)
            ]
            of_pictures = torch.tensor([found["originals"], *measured], dtype=torch.float64)  # all of the same length
            if not (of_pictures.numel() and of_pictures.isfinite().all()):
                raise ValueError("originals, lead and worse must have a number for each picture")
            self._originals = of_pictures[0].tolist()
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{self.path} cannot be read ({error!r}). {REMEDY}") from error
        if differing:
            raise ValueError(f"{self.path} was measured with other settings ({', '.join(differing)}). {REMEDY}")
