"""The SAE file: one .safetensors with everything needed to erase.

The header's "sae_eraser" entry is JSON (see SAEHeader) and can be read without the tensors. Tensors: those of
SparseAutoencoder's state, and "concepts.<name>" for every field of ConceptStatistics that is not None.
"""

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .atomic_write import write_atomically
from .autoencoder import SAEConfig, SparseAutoencoder
from .concepts import Concept, ConceptStatistics

FORMAT_KEY = "sae_eraser"
FORMAT_VERSION = 1
HOOKED_TENSORS = ("output", "residual")
TRAINED_BRANCHES = ("cond", "uncond")


class SAEFileError(ValueError):
    """The file cannot be used; the message names it, the fault and the remedy."""

    __module__ = "sae_eraser"  # as the page says it before the message


@dataclass(frozen=True)
class SAEHeader:
    """What stands in the header of an SAE file."""

    hookpoint: str
    """diffusers' name of the block, e.g. "up_blocks.1.attentions.1"."""
    model_family: str
    """Name of ComfyUI's model config class, e.g. "SD15", "SDXL"."""
    autoencoder: SAEConfig
    hooked: str = "output"
    """"output": the block's output. "residual": its output minus its input."""
    concepts: tuple[Concept, ...] = ()
    training: dict = field(default_factory=dict)
    """Facts for the reader: data, steps, seeds, FVU, L0. Not used for erasing."""
    branch: str = "cond"
    """The half of classifier-free guidance that its concepts were learned from. "cond": the prompt's; they can be
    erased. "uncond": the other; they tell what is drawn, whatever the prompt says."""

    @property
    def erases(self) -> bool:
        """Whether edits are made with it, if it has concepts."""
        return self.branch == "cond" and not self.autoencoder.unsupported


def save_sae(path: Path, sae: SparseAutoencoder, header: SAEHeader, statistics: ConceptStatistics) -> None:
    """Writes the file atomically: either the whole new file stands at `path` or what stood there before."""
    tensors = dict(sae.state_dict())
    tensors |= {f"concepts.{name}": table for name, table in vars(statistics).items() if table is not None}
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    metadata = {FORMAT_KEY: json.dumps({"version": FORMAT_VERSION, **asdict(header)})}
    write_atomically(path, lambda part: save_file(tensors, part, metadata=metadata))


def set_training_fact(path: Path, name: str, value: str) -> None:
    """Writes one fact more into the header; all else stays, and the file is replaced at once. Raises SAEFileError."""
    with _opened(path) as file:
        metadata = dict(file.metadata() or {})
        _parse(path, metadata)
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # Windows replaces no file that is mapped
    header = json.loads(metadata[FORMAT_KEY])
    header["training"] = {**header.get("training", {}), name: value}
    metadata[FORMAT_KEY] = json.dumps(header)
    write_atomically(path, lambda part: save_file(tensors, part, metadata=metadata))


def read_header(path: Path) -> SAEHeader:
    """Reads the header alone. Raises SAEFileError if the file is missing, damaged or no SAE file."""
    with _opened(path) as file:
        return _parse(path, file.metadata() or {})


def is_sae_file(path: Path) -> bool:
    """Whether this is a file of this format, whatever else may be wrong with it."""
    try:
        with _opened(path) as file:
            return FORMAT_KEY in (file.metadata() or {})
    except SAEFileError:
        return False


def load_sae(path: Path) -> tuple[SparseAutoencoder, SAEHeader, ConceptStatistics]:
    """Reads the whole file to the CPU in fp32 and checks shapes and values. Raises SAEFileError."""
    with _opened(path) as file:
        header = _parse(path, file.metadata() or {})
        tensors = {name: _fp32(path, file, name) for name in file.keys()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise SAEFileError(f"{path}: the tensor '{name}' holds NaN or infinity. Train or download the SAE again.")
    with torch.device("meta"):  # the file decides how large it is, not what its header claims
        sae = SparseAutoencoder(header.autoencoder)
    expected = {name: tuple(tensor.shape) for name, tensor in sae.state_dict().items()}
    terms = sum(len(concept.latents) for concept in header.concepts)
    levels = tensors["concepts.sigmas"].numel() if "concepts.sigmas" in tensors else 0
    expected["concepts.sigmas"] = (max(1, levels),)
    shapes: dict[str, tuple[int, ...]] = {name: (levels, terms) for name in ("with_concept", "background", "overall")}
    if {"concepts.detection", "concepts.positions"} & tensors.keys():
        shapes |= {"detection": (levels, terms), "positions": ()}
    expected |= {f"concepts.{name}": shape for name, shape in shapes.items()}
    for name, shape in expected.items():
        found = tuple(tensors[name].shape) if name in tensors else "nothing"
        if found != shape:
            raise SAEFileError(
                f"{path}: '{name}' should have the shape {shape}, but the file holds {found}. "
                "Its header and its tensors do not belong together; train or download the SAE again."
            )
    if tensors["input_scale"] <= 0:
        raise SAEFileError(f"{path}: 'input_scale' must be positive, but is {tensors['input_scale']}. Train it again.")
    if tensors.get("concepts.positions", torch.ones(())) < 1:
        raise SAEFileError(f"{path}: 'concepts.positions' must be at least 1. Train or download the SAE again.")
    sigmas = tensors["concepts.sigmas"]
    if sigmas[0] <= 0 or (sigmas.diff() <= 0).any():
        raise SAEFileError(f"{path}: the noise levels of its concepts must be positive and ascending; train it again.")
    sae.load_state_dict({name: tensors[name] for name in sae.state_dict()}, assign=True)
    tables = {name.removeprefix("concepts."): own for name, own in tensors.items() if name.startswith("concepts.")}
    statistics = ConceptStatistics(**{name: tables[name] for name in ("sigmas", *shapes)})
    return sae.eval().requires_grad_(False), header, statistics


def _opened(path: Path):
    if not Path(path).is_file():
        raise SAEFileError(f"{path} does not exist. Put the SAE file there, or choose another one.")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise SAEFileError(
            f"{path} cannot be read ({error}). It is damaged or no safetensors file; download it again."
        ) from error


def _fp32(path: Path, file, name: str) -> torch.Tensor:
    try:
        tensor = file.get_tensor(name)
        if tensor.is_floating_point():
            return tensor.to(torch.float32, copy=True)  # the file may be overwritten while it is in use
        kind = str(tensor.dtype)
    except (SafetensorError, NotImplementedError) as error:  # numbers that this torch does not know
        kind = str(error)
    raise SAEFileError(
        f"{path}: the numbers of the tensor '{name}' cannot be used ({kind}). Save it in fp32, fp16 or bf16."
    )


def _parse(path: Path, metadata: dict[str, str]) -> SAEHeader:
    if FORMAT_KEY not in metadata:
        raise SAEFileError(
            f"{path} is a safetensors file, but not an SAE of this pack. "
            "Models, LoRAs and VAEs belong in other folders; SAEs are made with 'sae-eraser train', and those of other "
            "tools are read by 'sae-eraser import'."
        )
    try:
        found = json.loads(metadata[FORMAT_KEY])
        version = found.pop("version")
        if version > FORMAT_VERSION:
            raise SAEFileError(f"{path} was written by a newer SAE Eraser (format {version}). Update this pack.")
        config = SAEConfig(**found.pop("autoencoder"))
        concepts = _concepts(found.pop("concepts"), config)
        header = SAEHeader(**found, autoencoder=config, concepts=concepts)
        _check_types(header)
        if header.hooked not in HOOKED_TENSORS:
            raise ValueError(f"hooked tensor '{header.hooked}' is unknown; known are {', '.join(HOOKED_TENSORS)}")
        if header.branch not in TRAINED_BRANCHES:
            raise ValueError(f"branch '{header.branch}' is unknown; known are {', '.join(TRAINED_BRANCHES)}")
    except SAEFileError:
        raise
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise SAEFileError(f"{path}: its header cannot be understood ({error}). Train or download it again.") from error
    return header


def _check_types(record: SAEHeader | Concept) -> None:
    """Raises TypeError if a field of text or facts holds something else: JSON may hold anything."""
    for own in fields(record):
        value = getattr(record, own.name)
        if own.type in (str, dict) and not isinstance(value, own.type):
            raise TypeError(f"'{own.name}' is {value!r}")


def _concepts(listed: list[dict], config: SAEConfig) -> tuple[Concept, ...]:
    concepts = tuple(_concept(concept, config) for concept in listed)
    for (group, name), count in Counter((concept.group, concept.name) for concept in concepts).items():
        if count > 1:
            raise ValueError(f"{count} concepts are called '{group}: {name}'")
    return concepts


def _concept(found: dict, config: SAEConfig) -> Concept:
    concept = Concept(**{**found, "latents": tuple(found["latents"])})
    _check_types(concept)
    if not concept.latents or not all(type(latent) is int for latent in concept.latents):
        raise ValueError(f"the latents of '{concept.name}' are {list(concept.latents)}")
    if any(not 0 <= latent < config.n_latents for latent in concept.latents):
        raise ValueError(f"'{concept.name}' points at a latent beyond the {config.n_latents} there are")
    for name in ("multiplier", "turn"):
        if not math.isfinite(getattr(concept, name)):
            raise ValueError(f"the {name} of '{concept.name}' is {getattr(concept, name)}")
    if concept.turn < 0:
        raise ValueError(f"the turn of '{concept.name}' is {concept.turn}, which would strengthen it")
    return concept
