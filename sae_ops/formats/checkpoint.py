"""A checkpoint of another tool: a weights file and the settings that lie beside it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..sae_file import SAEFileError
from .restricted_pickle import read_torch_file

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
SETTINGS = ("cfg.json", "config.json")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors are mapped from the file and read only where they are used."""

    path: Path
    """The weights file."""
    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]
    """What else the weights file holds."""
    config: dict[str, Any]
    """What the settings file beside it holds; empty without one."""

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor of this name in fp32. Raises SAEFileError if there is none."""
        if name not in self.tensors:
            raise SAEFileError(f"{self.path} lacks the tensor '{name}'. It is damaged; download or save it again.")
        return self.tensors[name].float()

    def count(self, *names: str) -> int:
        """The whole number that the settings give under the first of these names. Raises SAEFileError."""
        for name in names:
            if isinstance(self.config.get(name), int):
                return self.config[name]
        raise SAEFileError(
            f"{self.path}: nothing says what '{names[0]}' is. Put the cfg.json or config.json that came with it beside "
            f"it{', or import it with --k' if names[0] == 'k' else ''}."
        )


def open_checkpoint(path: Path, given: dict | None = None) -> Checkpoint:
    """Opens a weights file, .safetensors or torch's, by its content. Raises SAEFileError."""
    if not path.is_file():
        raise SAEFileError(f"{path} does not exist. Put the file there, or choose another one.")
    held = _held(path)
    inner = held.get("state_dict")
    held = {**held, **inner} if isinstance(inner, Mapping) else held
    tensors = {name: value for name, value in held.items() if isinstance(name, str) and is_plain(path, name, value)}
    values = {name: value for name, value in held.items() if name not in tensors}
    settings = _settings(path.parent)
    for name, value in (given or {}).items():
        if settings.get(name, value) != value:
            raise SAEFileError(
                f"The settings beside {path} say that {name} is {settings[name]}, not {value}. Leave out --{name}."
            )
    return Checkpoint(path, tensors, values, {**(given or {}), **settings})


def _held(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        if path.suffix == ".safetensors":
            raise SAEFileError(
                f"{path} cannot be read ({error}). It is damaged or no safetensors file; download it again."
            ) from error
    value = read_torch_file(path)
    return dict(value) if isinstance(value, Mapping) else {}


def is_plain(path: Path, name: str, value: Any) -> bool:
    """Whether it is a tensor. Raises SAEFileError if it is one that the file does not hold number by number."""
    if not isinstance(value, torch.Tensor):
        return False
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_complex() or value.is_nested:
        raise SAEFileError(f"{path}: the tensor '{name}' is no dense one of real numbers. Save it again as such.")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise SAEFileError(f"{path}: the tensor '{name}' is larger than the file. Save it again, contiguous.")
    return True


def _settings(folder: Path) -> dict[str, Any]:
    for name in SETTINGS:
        if (folder / name).is_file():
            try:
                settings = json.loads((folder / name).read_text(encoding="utf-8"))
            except (RecursionError, ValueError) as error:
                raise SAEFileError(f"{folder / name} is no JSON ({error}). Download it again.") from error
            settings = settings if isinstance(settings, dict) else {}
            return {name: value for name, value in settings.items() if value is not None}
    return {}
