"""Puts erasures on a model; erasures of one SAE become one edit with one encode, however many nodes are chained."""

from dataclasses import dataclass, field

import torch
from comfy.model_patcher import ModelPatcher

from ..sae_ops.edit import ConceptEdit, Erasure
from .block_hooks import BlockHook, get_hooks, model_family, resolve_hookpoint, with_hooks
from .sae_files import LoadedSAE


@dataclass(frozen=True, eq=False)
class EraseFunction:
    """The function of a BlockHook that erases."""

    sae: LoadedSAE
    erasures: tuple[Erasure, ...]
    edits: dict[torch.device, ConceptEdit] = field(default_factory=dict)
    """The prepared edit on every device where it has run."""

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, is_cond: torch.Tensor) -> torch.Tensor:
        if x.device not in self.edits:
            sae = self.sae
            edit = ConceptEdit(sae.autoencoder, sae.header.concepts, sae.statistics, self.erasures)
            self.edits[x.device] = edit.to(x.device)
        return self.edits[x.device](x, sigma, is_cond)


def sigma_range(model: ModelPatcher, start_percent: float, end_percent: float) -> tuple[float, float]:
    """Start and end of sampling (0 to 1) as noise levels. Raises ValueError if the start is not before the end."""
    if start_percent >= end_percent:
        raise ValueError(f"start_percent ({start_percent}) must be smaller than end_percent ({end_percent}).")
    sampling = model.get_model_object("model_sampling")
    return float(sampling.percent_to_sigma(start_percent)), float(sampling.percent_to_sigma(end_percent))


def erase(model: ModelPatcher, sae: LoadedSAE, erasures: tuple[Erasure, ...]) -> ModelPatcher:
    """A clone of the model that erases these concepts, besides those that earlier nodes erase.

    Raises ValueError if the SAE was made for another model family or width, HookpointError if the block is missing.
    """
    family = model_family(model)
    if sae.header.model_family != family:
        raise ValueError(
            f"The SAE '{sae.name}' was made for {sae.header.model_family} models, but this model is {family}. "
            f"Choose an SAE made for {family}, or load a {sae.header.model_family} checkpoint."
        )
    hookpoint = resolve_hookpoint(model, sae.header.hookpoint)
    if hookpoint.width != sae.header.autoencoder.d_in:
        raise ValueError(
            f"The SAE '{sae.name}' reads {sae.header.autoencoder.d_in} channels, but {hookpoint.name} has "
            f"{hookpoint.width} in this model. Choose an SAE made for it."
        )
    others = []
    for hook in get_hooks(model):
        if isinstance(hook.function, EraseFunction) and hook.function.sae is sae:
            erasures = hook.function.erasures + erasures
        else:
            others.append(hook)
    added = BlockHook(hookpoint, sae.header.hooked, EraseFunction(sae, erasures))
    return with_hooks(model, (*others, added))
