"""The curves of a training, for TensorBoard."""

from pathlib import Path

from ..finish import Made


def make_folder(folder: Path) -> None:
    """Makes the folder for the curves. Raises ValueError if TensorBoard's package is missing; OSError."""
    _summary_writer()
    folder.mkdir(parents=True, exist_ok=True)


def write_curves(folder: Path, made: list[Made]) -> None:
    """Writes what each SAE's training has measured, into a folder of its own."""
    for sae in made:
        with _summary_writer()(str(folder / sae.out.stem)) as writer:
            for entry in sae.track.history:
                for name, value in entry["validation"].items():
                    writer.add_scalar(f"{entry['phase']}/validation {name}", value, entry["step"])
                for name in entry.keys() - {"phase", "step", "validation"}:
                    writer.add_scalar(f"{entry['phase']}/{name}", entry[name], entry["step"])


def _summary_writer() -> type:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("--tensorboard needs a package: pip install tensorboard") from error
    return SummaryWriter
