"""Puts erasures on a model; erasures of one SAE become one edit with one encode, however many nodes are chained."""

import math
from dataclasses import dataclass, field

import torch
from comfy.model_patcher import ModelPatcher

from ...sae_ops.edit import ConceptEdit
from ...sae_ops.erasure import PAPER_COMPAT, Erasure
from ...sae_ops.hookpoints import Hookpoint
from ...sae_ops.masks import Place
from ...sae_ops.paper_edit import PaperEdit
from ..files.sae_files import LoadedSAE
from ..files.whole_encoders import whole_encoder
from ..hooks.block_hooks import KEY, get_hooks, with_hooks
from ..hooks.forward_hooks import BlockHook, Hooks
from ..hooks.needs import Need
from ..hooks.noise_levels import noise_schedule
from ..hooks.run_memory import CallMemory
from ..hooks.sae_hookpoints import resolve_sae


@dataclass(frozen=True, eq=False)
class EraseFunction:
    """The function of a BlockHook that erases. Raises ValueError if paper_compat is combined with other modes."""

    sae: LoadedSAE
    erasures: tuple[Erasure, ...]
    edits: dict[torch.device, ConceptEdit | PaperEdit] = field(default_factory=dict)
    """The prepared edit on every device where it has run."""

    def __post_init__(self):
        if len({erasure.mode == PAPER_COMPAT for erasure in self.erasures}) > 1:
            raise ValueError(
                f"The mode {PAPER_COMPAT} cannot be combined with others in one SAE ('{self.sae.name}'). Choose it in "
                "all of its erase nodes, or in none."
            )

    def __call__(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        is_cond: torch.Tensor,
        place: Place | None = None,
        memory: CallMemory | None = None,
    ) -> torch.Tensor:
        if x.device not in self.edits:
            self.edits[x.device] = self._prepared().to(x.device)
        edit = self.edits[x.device]
        if isinstance(edit, PaperEdit):
            return edit(x, sigma, is_cond)
        if memory is None:
            return edit(x, sigma, is_cond, place)
        shown = memory.recall(self.sae, len(x), self.sae.statistics.overall.shape[1], x.device)
        edited = edit(x, sigma, is_cond, place, shown)
        memory.keep(self.sae, shown)
        return edited

    @property
    def remembers(self) -> bool:
        """Whether what a picture has shown in earlier calls matters: where look-alikes are spared."""
        return self.sae.statistics.detection is not None and self.erasures[0].mode != PAPER_COMPAT

    def _prepared(self) -> ConceptEdit | PaperEdit:
        sae = self.sae
        parts = (sae.autoencoder, sae.header.concepts, sae.statistics, self.erasures)
        if self.erasures[0].mode == PAPER_COMPAT:
            return PaperEdit(*parts)
        encoder = whole_encoder(sae)
        return ConceptEdit(*parts, encoder.model if encoder else None)


def refuse_uncond(sae: LoadedSAE) -> None:
    """Raises ValueError if the SAE only tells what is drawn."""
    if sae.header.branch == "uncond":
        raise ValueError(
            f"The SAE '{sae.name}' tells what is drawn (branch uncond), and cannot erase. Use it with Watch Concepts, "
            "and erase with an SAE of the branch cond."
        )


def add_erasures(
    hooks: Hooks,
    hookpoint: Hookpoint,
    sae: LoadedSAE,
    erasures: tuple[Erasure, ...],
    needs: tuple[Need, ...] = (),
) -> Hooks:
    """The hooks, with these erasures and their needs joined to those of the same SAE.

    Raises ValueError as refuse_uncond and EraseFunction do.
    """
    refuse_uncond(sae)
    others = []
    for hook in hooks:
        if isinstance(hook.function, EraseFunction) and hook.function.sae is sae:
            erasures, needs = hook.function.erasures + erasures, hook.needs + needs
        else:
            others.append(hook)
    function = EraseFunction(sae, erasures)
    hook = BlockHook(
        hookpoint,
        sae.header.hooked,
        function,
        takes_place=any(erasure.mask is not None for erasure in erasures),
        remembers=function.remembers,
        reads_halves=any(erasure.branch != "both" for erasure in erasures),
        needs=needs,
    )
    return *others, hook


def erase(model: ModelPatcher, sae: LoadedSAE, erasures: tuple[Erasure, ...]) -> ModelPatcher:
    """A clone of the model that erases these concepts, besides those that earlier nodes erase.

    Raises as resolve_sae and add_erasures do.
    """
    needs = tuple(_need(model, erasure) for erasure in erasures)
    erased = with_hooks(model, add_erasures(get_hooks(model), resolve_sae(model, sae), sae, erasures, needs))
    saes = [hook.function.sae for hook in get_hooks(erased) if isinstance(hook.function, EraseFunction)]
    erased.set_additional_models(KEY, [encoder for encoder in map(whole_encoder, saes) if encoder])
    return erased


def _need(model: ModelPatcher, erasure: Erasure) -> Need:
    start, end = erasure.sigma_start, erasure.sigma_end
    return Need(erasure.branch, start, end, None if (start, end) == (math.inf, 0) else noise_schedule(model))
