"""SAEs that other tools have written, recognised by what is in their files; writing ours is sae_ops.sae_file."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ..autoencoder import SparseAutoencoder
from ..concepts import ConceptStatistics
from ..sae_file import HOOKED_TENSORS, SAEFileError, SAEHeader, is_sae_file, load_sae
from .checkpoint import SETTINGS, WEIGHT_SUFFIXES, Checkpoint, open_checkpoint
from .origin import named_origin
from .table import FORMATS, Format

PLACES = ("*", "*/*", "*/*/*")
"""Where in a folder an SAE may lie."""


@dataclass(frozen=True)
class ForeignSAE:
    """What an importer gets out of another tool's files."""

    format: str
    """Name of the format."""
    file: str
    """Name of the weights file."""
    autoencoder: SparseAutoencoder
    header: SAEHeader
    """Without concepts; hookpoint and model family are empty where the files do not tell."""


def recognise(path: Path) -> str | None:
    """The name of the format of a weights file; None if it is in none of them. Reads names, not weights."""
    try:
        return _format_of(open_checkpoint(path)).name
    except (SAEFileError, OSError):
        return None


def lacks_settings(path: Path) -> bool:
    """Whether a weights file that is in no format is an SAE all the same, as far as its tensors tell: what describes it
    is not beside it. Raises SAEFileError on a damaged file."""
    return {"W_enc", "W_dec", "b_dec"} <= open_checkpoint(path).tensors.keys()


def read_foreign(path: Path, given: dict | None = None) -> ForeignSAE:
    """Reads another tool's SAE, a weights file or the folder it lies in, to the CPU in fp32.

    given: settings such as k that count where the files leave them out. Raises SAEFileError.
    """
    checkpoint = open_checkpoint(find_weights(path), given)
    found = _format_of(checkpoint)
    try:
        sae = found.read(checkpoint)
    except SAEFileError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise SAEFileError(
            f"{checkpoint.path} looks like an SAE of {found.name}, but it or the settings beside it cannot be "
            f"understood ({type(error).__name__}: {error}). Download or save it again."
        ) from error
    origin = named_origin(checkpoint)
    hooked = origin.hooked or found.hooked
    if hooked not in HOOKED_TENSORS:
        raise SAEFileError(
            f"{checkpoint.path}: the settings beside it call the hooked tensor '{hooked}'; known are "
            f"{', '.join(HOOKED_TENSORS)}. Export or download it again."
        )
    header = SAEHeader(origin.hookpoint, origin.model_family or found.model_family, sae.config, hooked)
    return ForeignSAE(found.name, checkpoint.path.name, sae, header)


def find_weights(path: Path) -> Path:
    """The weights file that `path` is or holds, itself or in one folder below. Raises SAEFileError."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise SAEFileError(f"{path} does not exist. Give an SAE file, or the folder in which one lies.")
    others: list[Path] = []
    for pattern in PLACES:
        found = [file for file in sorted(path.glob(pattern)) if file.suffix in WEIGHT_SUFFIXES and file.is_file()]
        saes = [file for file in found if recognise(file)]
        if len(saes) > 1:
            names = ", ".join(str(file.relative_to(path)) for file in saes)
            raise SAEFileError(f"{path} holds several SAEs; give one of them: {names}.")
        if saes:
            return saes[0]
        others += found
    if len(others) == 1:  # whatever is wrong with it can be said
        return others[0]
    raise SAEFileError(f"{path} holds no SAE in a known format. Known are: {', '.join(known_formats())}.")


def files_of(path: Path) -> list[Path]:
    """The files on which depends what read_foreign makes of `path`: weights, and settings beside them."""
    if path.is_dir():
        found = [file for pattern in PLACES for file in path.glob(pattern)]
        return sorted(file for file in found if file.suffix in WEIGHT_SUFFIXES or file.name in SETTINGS)
    return [path, *(path.with_name(name) for name in SETTINGS)]


def known_formats() -> list[str]:
    """The names of all formats."""
    return [known.name for known in FORMATS]


def open_any(path: Path) -> tuple[SparseAutoencoder, SAEHeader, ConceptStatistics]:
    """Reads an SAE file of ours or of another tool; the latter has no concepts. Raises SAEFileError."""
    if is_ours(path):
        return load_sae(path)
    foreign = read_foreign(path)
    return foreign.autoencoder, foreign.header, no_statistics()


def is_ours(path: Path) -> bool:
    """Whether sae_ops.sae_file is to read it, and to say what is wrong with it."""
    return is_sae_file(path) or not path.exists() or (path.suffix == ".safetensors" and not recognise(path))


def no_statistics() -> ConceptStatistics:
    """The statistics of an SAE without concepts."""
    return ConceptStatistics(torch.ones(1), *(torch.zeros(1, 0) for _ in range(3)))


def _format_of(checkpoint: Checkpoint) -> Format:
    for known in FORMATS:
        if known.recognises(checkpoint):
            return known
    names = ", ".join(sorted(checkpoint.tensors)[:8]) or "none"
    raise SAEFileError(
        f"{checkpoint.path} is in none of the known formats ({', '.join(known_formats())}); its tensors are: {names}. "
        "If a cfg.json or config.json came with it, put that beside it."
    )
