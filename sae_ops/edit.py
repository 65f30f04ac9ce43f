"""The edit: takes concepts out of the activations at one hookpoint, or brings them in.

    x' = x + sum over edited latents i of (z'_i - z_i) W_dec[i]

What the autoencoder cannot reconstruct passes through untouched, and positions where no erased latent fires and
nothing is strengthened are not touched at all, bit for bit.
"""

import copy
from dataclasses import dataclass

import torch

from .autoencoder import ACTIVATIONS, SparseAutoencoder
from .chosen_latents import ChosenLatents
from .concepts import Concept, ConceptStatistics
from .erasure import PAPER_COMPAT, Erasure
from .largest import ScreenedEncoder
from .masks import Place, mask_weights
from .neighbours import take_from_neighbours
from .terms import TermLevels, Terms, list_terms

MOST_PARTS = 4
"""Selections of terms that are kept ready; which concepts a picture shows may change from step to step."""
MOST_CALLS = 256
"""Noise levels, and halves of guidance, that are kept ready: those of all steps, for the next picture."""


class ConceptEdit:
    """All erasures of one SAE, prepared to run at every step with one encode.

    The order of the erasures does not matter: of several that share a latent, the one that lowers it most wins, and
    what strengthens it is added to that.
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        concepts: tuple[Concept, ...],
        statistics: ConceptStatistics,
        erasures: tuple[Erasure, ...],
        encoder: ScreenedEncoder | None = None,
    ):
        """encoder: that of the SAE, if it is kept elsewhere; only topk needs more of it than the erased latents.

        Raises ValueError if this SAE cannot edit, or this edit has no such mode.
        """
        if not sae.config.is_editable:
            raise ValueError(f"{sae.config} cannot erase; only {', '.join(ACTIVATIONS)} without an input norm can.")
        if any(erasure.mode == PAPER_COMPAT for erasure in erasures):
            raise ValueError(f"The mode {PAPER_COMPAT} belongs to PaperEdit alone.")
        device = sae.W_enc.device
        self._terms, latents, self._masks = list_terms(concepts, erasures)
        self._has_masks = any(mask is not None for mask in self._masks)
        self._statistics, self._is_topk = statistics, sae.config.activation == "topk"
        self._latents = ChosenLatents(sae, latents, encoder)
        self._detectors = self._terms.detects.nonzero()[:, 0]
        self._detecting = self._latents[self._terms.column[self._detectors].to(device)]
        self._decoder = sae.W_dec[torch.tensor(latents, device=device)] / sae.input_scale
        self._centre = sae.input_shift[:, None]
        self._parts: dict[tuple[int, ...], _Part] = {}
        self._calls: dict[tuple[float, ...], tuple[torch.Tensor, TermLevels]] = {}

    def to(self, device: torch.device) -> "ConceptEdit":
        """The same edit on another device; what topk needs of the whole encoder stays where it is."""
        moved = copy.copy(self)
        for name in ("_latents", "_detecting", "_decoder", "_centre"):
            setattr(moved, name, getattr(self, name).to(device))
        moved._masks = [mask if mask is None else mask.to(device) for mask in self._masks]
        moved._parts, moved._calls = {}, {}
        return moved

    @torch.no_grad()
    def __call__(
        self, x: torch.Tensor, sigma: torch.Tensor, is_cond: torch.Tensor, place: Place | None = None
    ) -> torch.Tensor:
        """Maps [images, d, height, width], noise level and guidance half of each image [images] -> edited maps.

        place: where the maps lie in the picture; only masks need it. Works in fp32 and returns the dtype of x; returns
        x itself where nothing is to be edited. Raises ValueError if a mask does not fit.

        What does not depend on x is worked out once on the CPU, for which sigma and is_cond should be there: a GPU
        takes longer to start a kernel than to run one of these, and longest if it is waited for.
        """
        active, levels = self._at(sigma, is_cond)
        if not active.any():
            return x
        maps = x.flatten(2).float().contiguous()
        needed = self._needed(maps, active, levels)
        if not len(needed):
            return x
        part = self._part(needed)
        now = levels if len(needed) == len(active) else levels[needed.to(x.device)]
        z = part.latents.at_most(maps)
        if self._is_topk:
            z = part.latents.at_last(maps, z, part.fires(z, now.gate).any(dim=1))
        fires = part.fires(z, now.gate)
        if not (part.steers or fires.any()):
            return x
        strength, moved = now.strength, fires
        if self._has_masks:
            strength = strength * self._mask_weights(x, place)[:, part.mask]
            moved = fires & (strength > 0)
        if part.replaces is not None:
            detected = (fires & part.finds[:, None]).any(dim=1)  # [images, positions]
            has_donors = (~detected).any(dim=1)[:, None, None]
            moved = moved & ~(part.replaces[:, None] & has_donors)  # latents, not whole vectors
        before = part.of_terms(z)
        target = torch.addcmul(now.offset, now.factor, before)
        after = torch.where(moved, torch.lerp(before, target, strength.expand_as(before)), before)
        decoder = part.decoder.T.expand(len(maps), -1, -1)
        edited = torch.baddbmm(maps, decoder, part.lowest(after, z) - z)
        changed = moved.any(dim=1)
        if part.turns is not None:
            turned = changed if part.all_turn else (moved & part.turns[:, None]).any(dim=1)
            edited = self._with_length_of(maps, edited, turned)
        if part.steers:
            added = strength * now.added
            edited = torch.baddbmm(edited, decoder, part.summed(added.expand_as(before), z))
            changed = changed | (added > 0).any(dim=1)
        result = torch.where(changed[:, None], edited.to(x.dtype), x.flatten(2))
        if part.replaces is not None:
            shares = (fires * part.finds[:, None] * strength).amax(dim=1)
            result = take_from_neighbours(result, detected, shares, x.shape[2:])
        return result.reshape(x.shape)

    def _mask_weights(self, x: torch.Tensor, place: Place | None) -> torch.Tensor:
        """Of every mask, [images, masks, positions]."""
        if place is None:
            raise ValueError("A mask needs a picture to lie on, but this is none. Take the mask out.")
        everywhere = torch.ones(len(x), x[0, 0].numel(), device=x.device)
        weights = [everywhere if mask is None else mask_weights(mask, place, x.shape[2:]) for mask in self._masks]
        return torch.stack(weights, dim=1)

    def _at(self, sigma: torch.Tensor, is_cond: torch.Tensor) -> tuple[torch.Tensor, TermLevels]:
        """Which terms change anything, bool [terms] on the CPU, and what they do, on the device of the maps."""
        key = (*sigma.tolist(), *is_cond.tolist())
        if key not in self._calls:
            if len(self._calls) == MOST_CALLS:
                self._calls.clear()
            active = self._terms.are_active(sigma.cpu(), is_cond.cpu())
            levels = TermLevels.of(self._terms, active, self._statistics, sigma.cpu())
            self._calls[key] = active.any(dim=0), levels.to(self._decoder.device)
        return self._calls[key]

    def _needed(self, maps: torch.Tensor, active: torch.Tensor, levels: TermLevels) -> torch.Tensor:
        """The terms that may move anything here, int64: on the CPU those of concepts that these maps may show."""
        terms = self._terms
        if len(self._detectors) < len(terms) and maps.device.type == "cpu":  # a GPU has encoded all of them sooner
            fires = self._detecting.at_most(maps) > levels.gate[:, self._detectors]
            may_show = torch.zeros_like(terms.steers)
            may_show[self._detectors] = fires.any(dim=2).any(dim=0)
            active = active & (may_show[terms.detector] | terms.steers)
        return active.nonzero()[:, 0]

    def _part(self, needed: torch.Tensor) -> "_Part":
        """These terms, which are mostly those of the last step."""
        key = tuple(needed.tolist())
        if key not in self._parts:
            if len(self._parts) == MOST_PARTS:
                self._parts.clear()
            self._parts[key] = _Part.of(self._terms[needed], self._latents, self._decoder)
        return self._parts[key]

    def _with_length_of(self, maps: torch.Tensor, edited: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
        """edited [images, d, positions], where `turned` [images, positions] as long as in maps, seen from the mean."""
        before, after = ((vectors - self._centre).square_().sum(dim=1) for vectors in (maps, edited))
        share = torch.where(turned, before / after.clamp(min=1e-24), 1).sqrt()
        return torch.lerp(self._centre, edited, share[:, None])


@dataclass(frozen=True)
class _Part:
    """Some terms, ready on the device of the maps."""

    latents: ChosenLatents
    """Those of the terms."""
    decoder: torch.Tensor
    """[latents, d]."""
    column: torch.Tensor | None
    """Which of the latents each term is; None if they are the same, one by one."""
    detector: torch.Tensor | None
    """As in Terms; None if every term is its own."""
    mask: torch.Tensor
    steers: bool
    """Whether any of them does."""
    turns: torch.Tensor | None
    """None if none does."""
    all_turn: bool
    replaces: torch.Tensor | None
    """None if none does."""
    finds: torch.Tensor
    """Which of them tell where to replace."""

    @staticmethod
    def of(terms: Terms, latents: ChosenLatents, decoder: torch.Tensor) -> "_Part":
        device = decoder.device
        columns, column = terms.column.unique(return_inverse=True)
        own = torch.equal(column, torch.arange(len(terms)))
        if len(columns) < len(decoder):
            latents, decoder = latents[columns.to(device)], decoder[columns.to(device)]
        return _Part(
            latents,
            decoder,
            None if own else column.to(device),
            None if terms.detects.all() else terms.detector.to(device),
            terms.mask.to(device),
            bool(terms.steers.any()),
            terms.turns.to(device) if terms.turns.any() else None,
            bool(terms.turns.all()),
            terms.replaces.to(device) if terms.replaces.any() else None,
            (terms.detects & terms.replaces).to(device),
        )

    def of_terms(self, z: torch.Tensor) -> torch.Tensor:
        """z [images, latents, positions] -> [images, terms, positions]."""
        return z if self.column is None else z[:, self.column]

    def lowest(self, values: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Of the values [images, terms, positions] of terms that share a latent; shaped as z."""
        if self.column is None:
            return values
        places = self.column[:, None].expand_as(values)
        return z.scatter_reduce(1, places, values, "amin", include_self=False)

    def summed(self, values: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """The values [images, terms, positions] of terms that share a latent; shaped as z."""
        return values if self.column is None else torch.zeros_like(z).index_add_(1, self.column, values)

    def fires(self, z: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Where terms pass their gates [images, terms, 1], in maps in which that of their detector does, bool."""
        passes = self.of_terms(z) > gate
        return passes if self.detector is None else passes & passes.any(dim=2)[:, self.detector, None]
