"""The folder models/sae: what is in it, and SAEs loaded from it, each read once."""

import functools
import hashlib
import logging
import os
import weakref
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ...sae_ops.autoencoder import SparseAutoencoder
from ...sae_ops.concepts import Concept, ConceptStatistics
from ...sae_ops.formats import lacks_settings, open_any, recognise
from ...sae_ops.formats.checkpoint import SETTINGS, WEIGHT_SUFFIXES
from ...sae_ops.sae_file import SAEFileError, SAEHeader, is_sae_file, read_header
from .fingerprints import stamps

FOLDER = "sae"
NONE_INSTALLED = "no SAE installed"
SAMPLES, SAMPLE_BYTES = 64, 4096
_living: weakref.WeakValueDictionary[tuple, "LoadedSAE"] = weakref.WeakValueDictionary()

folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
folder_paths.folder_names_and_paths[FOLDER] = (folder_paths.folder_names_and_paths[FOLDER][0], set(WEIGHT_SUFFIXES))


@dataclass(frozen=True, eq=False)
class LoadedSAE:
    """An SAE file in memory; what the SAE sockets carry."""

    name: str
    """File name as the dropdown shows it."""
    autoencoder: SparseAutoencoder
    header: SAEHeader
    statistics: ConceptStatistics


def list_saes() -> dict[str, tuple[str, ...]]:
    """The SAE files of models/sae and their concepts, group by group, without reading weights.

    Concepts of the same name in two groups are written "group: name". Files that are no SAE are left out. Other tools'
    SAEs are in it, by the name of their weights file and without concepts.
    """
    return {name: listing.concepts for name, listing in _listings().items()}


def list_erasing_saes() -> dict[str, tuple[str, ...]]:
    """The SAE files of models/sae that can erase, as list_saes has them."""
    return {name: listing.concepts for name, listing in _listings().items() if listing.erases}


def list_origins() -> dict[str, dict[str, str]]:
    """For the web page: of every SAE file its "id", which tells another file of the same name, and, if it says so
    itself, the "url" it can be downloaded from."""
    return {
        name: {"id": listing.id} | ({"url": listing.url} if listing.url else {})
        for name, listing in _listings().items()
    }


def sae_path(name: str) -> Path:
    """Where this SAE file lies. Raises SAEFileError, which says where to put it, if it is not there."""
    if not isinstance(name, str):
        raise SAEFileError(f"The SAE is {name!r:.80}, but must be the name of a file in models/sae.")
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        raise SAEFileError(_not_there(name))
    return Path(path)


def _not_there(name: str) -> str:
    """What to do where no file has this name; an empty list and a program that chooses nothing give none."""
    wanted = f"The SAE '{name}' is not installed."
    if name in ("", NONE_INSTALLED):
        if listings := _listings():
            names = (own if listing.erases else f"{own} (cannot erase)" for own, listing in listings.items())
            return f"No SAE is chosen. Choose one of: {', '.join(names)}. If they are not in the list, press R."
        wanted = "No SAE is installed."
    folder = folder_paths.get_folder_paths(FOLDER)[0]
    return f"{wanted} Put SAE files (.safetensors) into {folder} and press R to refresh the lists."


def open_sae(name: str) -> LoadedSAE:
    """Loads an SAE of models/sae, or returns it as loaded before if the file has not changed.

    Raises SAEFileError, also if another tool wrote it and nothing tells where it belongs or how to edit with it.
    """
    return _load(name, *_stamp(sae_path(name)))


def why_not_opened(name: str, header: SAEHeader) -> str | None:
    """Why no node can do anything with this SAE, and what to do; None if they can."""
    if unsupported := header.autoencoder.unsupported:
        return f"The SAE '{name}' cannot erase: its {unsupported} is not supported in edits. Choose another SAE."
    return None


def fingerprint(name: str | None) -> tuple | None:
    """Fingerprint of an SAE file: changes when the file does; None if the name is not known yet, as that of a link."""
    return None if name is None else _stamp(sae_path(name))


def _stamp(path: str | Path) -> tuple[str, tuple]:
    """The path, and what changes when the file does, or one beside it that describes another tool's SAE."""
    return str(path), tuple(stamps([Path(path), *(Path(path).with_name(name) for name in SETTINGS)]))


@dataclass(frozen=True)
class _Listing:
    """What a list of files shows of one."""

    concepts: tuple[str, ...]
    erases: bool
    id: str
    url: str


def _listings() -> dict[str, _Listing]:
    found = {}
    for name in folder_paths.get_filename_list(FOLDER):
        path = folder_paths.get_full_path(FOLDER, name)
        if path is None:  # a link to a file that is gone
            continue
        try:
            listing = _listing(*_stamp(path))
        except OSError:  # it is being written, or locked: the next list may have it
            continue
        if listing:
            found[name] = listing
    return found


@functools.cache  # of any number: one that forgets would read a folder of more files again for every list
def _listing(path: str, stamp: tuple) -> _Listing | None:
    """None if the file is no SAE, whatever is wrong with it: the page needs the list of all others.

    A damaged one, or one whose settings are missing, is warned of, once for each state of the file, as the result is
    kept. Raises OSError if it cannot be read now.
    """
    file, identity = Path(path), content_id(path)
    try:
        if not is_sae_file(file):
            if recognise(file):
                return _Listing((), True, identity, "")
            if lacks_settings(file):
                raise SAEFileError(
                    f"{file} is another tool's SAE, without what describes it. Put the cfg.json or config.json that "
                    "came with it beside it, and press R."
                )
            return None  # a whole file of something else
        header = read_header(file)
        url = str(header.training.get("url", ""))
        return _Listing(_labels(header.concepts), header.erases, identity, url)
    except SAEFileError as error:
        logging.warning("SAE Eraser: %s is not listed: %s", file.name, error)
    except Exception as error:
        logging.warning("SAE Eraser: %s is not listed: %r. Download or copy it again.", file.name, error)
    return None


def _labels(concepts: tuple[Concept, ...]) -> tuple[str, ...]:
    """Group by group, in the order of the file."""
    places = {group: place for place, group in enumerate(dict.fromkeys(concept.group for concept in concepts))}
    namesakes = Counter(concept.name.casefold() for concept in concepts)
    return tuple(
        concept.name if namesakes[concept.name.casefold()] == 1 else concept.label
        for concept in sorted(concepts, key=lambda concept: places[concept.group])
    )


def content_id(path: str | Path) -> str:
    """12 hexadecimal digits that differ for two trainings: a hash of the size and of 64 samples of 4 kB.

    It reads no more of a large file than that, so it does not prove that two files are equal everywhere.
    """
    size = os.stat(path).st_size
    found = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for sample in range(SAMPLES):
            file.seek(max(0, size - SAMPLE_BYTES) * sample // (SAMPLES - 1))
            found.update(file.read(SAMPLE_BYTES))
    return found.hexdigest()[:12]


@functools.lru_cache(maxsize=4)
def _load(*file) -> LoadedSAE:
    """As long as a node holds it, it is the same object, so that erasures of one SAE can be joined."""
    loaded = _living.get(file)
    if loaded is None:
        loaded = _living[file] = _read(*file)
    return loaded


def _read(name: str, path: str, stamp: tuple) -> LoadedSAE:
    loaded = LoadedSAE(name, *open_any(Path(path)))
    header = loaded.header
    if not header.hookpoint or not header.model_family:
        raise SAEFileError(
            f"The SAE '{name}' is another tool's and does not say where in which model it belongs. In a terminal: "
            f'sae-eraser import "{path}" --out "{Path(path).with_name("imported.safetensors")}" --hookpoint NAME '
            "--model-family SD15"
        )
    if refusal := why_not_opened(name, header):
        raise SAEFileError(refusal)
    return loaded
