"""The edit: takes concepts out of the activations at one hookpoint, or brings them in.

    x' = x + sum over edited latents i of (z'_i - z_i) W_dec[i]

What the autoencoder cannot reconstruct passes through untouched, and positions where no erased latent fires and
nothing is strengthened are not touched at all, bit for bit.
"""

import copy

import torch

from .autoencoder import ACTIVATIONS, SparseAutoencoder
from .chosen_latents import ChosenLatents
from .concepts import Concept, ConceptStatistics
from .erasure import PAPER_COMPAT, Erasure
from .largest import ScreenedEncoder
from .masks import Place, mask_weights
from .neighbours import take_from_neighbours
from .selection import Selection, shown_in_maps
from .terms import TermLevels, list_terms

MOST_SELECTIONS = 4
"""So many are kept ready; which concepts a picture shows may change from step to step."""
MOST_CALLS = 256
"""What terms do is kept ready for so many: more than the steps of a picture, for the next one."""
MOST_WEIGHTS = 32
"""Masks are kept pooled for so many calls that differ in their place; those of the next step are mostly the same."""


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
        if sae.config.unsupported:
            raise ValueError(f"{sae.config} cannot erase; only {', '.join(ACTIVATIONS)} without an input norm can.")
        if any(erasure.mode == PAPER_COMPAT for erasure in erasures):
            raise ValueError(f"The mode {PAPER_COMPAT} belongs to PaperEdit alone.")
        device = sae.W_enc.device
        self._terms, latents, self._masks = list_terms(concepts, erasures)
        self._has_masks = any(mask is not None for mask in self._masks)
        self._statistics, self._is_topk = statistics, sae.config.activation == "topk"
        self._latents = ChosenLatents(sae, latents, encoder)
        self._detectors = self._terms.detects.nonzero()[:, 0]
        self._detecting = self._latents[self._terms.latent[self._detectors].to(device)]
        self._decoder = sae.W_dec[torch.tensor(latents, device=device)] / sae.input_scale
        self._centre = sae.input_shift[:, None]
        self._mean_positions = 0 if statistics.positions is None else int(statistics.positions)
        self._selections: dict[tuple[int, ...], Selection] = {}
        self._calls: dict[tuple[float, ...], tuple[torch.Tensor, TermLevels]] = {}
        self._weights: dict[tuple[Place, torch.Size], torch.Tensor] = {}

    def to(self, device: torch.device) -> "ConceptEdit":
        """The same edit on another device; masks, and what topk needs of the whole encoder, stay where they are."""
        moved = copy.copy(self)
        for name in ("_latents", "_detecting", "_decoder", "_centre"):
            setattr(moved, name, getattr(self, name).to(device))
        moved._selections, moved._calls, moved._weights = {}, {}, {}
        return moved

    @torch.no_grad()
    def __call__(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        is_cond: torch.Tensor,
        place: Place | None = None,
        shown: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Maps [images, d, height, width], noise level and guidance half of each image [images] -> edited maps.

        place: where the maps lie in the picture; only masks need it. shown: bool [images, terms of the statistics],
        which concepts each picture has shown in earlier calls, whatever erased them then; those of this one are added.
        A picture that once had enough of a concept need not have as much again. Works in fp32 and returns the dtype of
        x; returns x itself where nothing is to be edited. Raises ValueError if a mask does not fit.

        What does not depend on x is worked out once on the CPU, for which sigma and is_cond should be there: a GPU
        takes longer to start a kernel than to run one of these, and longest if it is waited for.
        """
        active, levels = self._at(sigma, is_cond)
        if not active.any():
            return x
        maps = x.flatten(2).float().contiguous()
        needed = self._needed(maps, active, levels, shown)
        if not len(needed):
            return x
        some = self._select(needed)
        chosen = slice(None) if len(needed) == len(active) else needed.to(x.device)
        now, earlier = levels[chosen], None if shown is None else shown[:, some.statistics_column, None]
        z = some.latents.before_topk(maps)
        if self._is_topk:
            z = some.latents.after_topk(maps, z, some.asks(z, now, earlier))
        fires = some.fires(z, now, earlier)
        if shown is not None:
            own = fires.any(dim=2).int()
            shown |= torch.zeros_like(shown, dtype=torch.int32).index_add_(1, some.statistics_column, own) > 0
        if not (some.steers or fires.any()):
            return x
        strength, moved = now.strength, fires
        if self._has_masks:
            strength = strength * self._mask_weights(x, place)[:, some.mask]
            moved = fires & (strength > 0)
        if some.replaces is not None:
            detected = (fires & some.finds[:, None]).any(dim=1)  # [images, positions]
            has_donors = (~detected).any(dim=1)[:, None, None]
            moved = moved & ~(some.replaces[:, None] & has_donors)  # latents, not whole vectors
        before = some.of_terms(z)
        target = torch.addcmul(now.offset, now.factor, before)
        after = torch.where(moved, torch.lerp(before, target, strength.expand_as(before)), before)
        decoder = some.decoder.T.expand(len(maps), -1, -1)
        edited = torch.baddbmm(maps, decoder, some.lowest(after, moved, z) - z)
        changed = moved.any(dim=1)
        if some.turns is not None:
            turned = changed if some.all_turn else (moved & some.turns[:, None]).any(dim=1)
            edited = self._with_length_of(maps, edited, turned)
        if some.steers:
            added = strength * now.added
            edited = torch.baddbmm(edited, decoder, some.summed(added.expand_as(before), z))
            changed = changed | (added > 0).any(dim=1)
        result = torch.where(changed[:, None], edited.to(x.dtype), x.flatten(2))
        if some.replaces is not None:
            shares = (fires * some.finds[:, None] * strength).amax(dim=1)
            result = take_from_neighbours(result, detected, shares, x.shape[2:])
        return result.reshape(x.shape)

    def _mask_weights(self, x: torch.Tensor, place: Place | None) -> torch.Tensor:
        """How much of every mask lies on each position, [images, masks, positions]."""
        if place is None:
            raise ValueError("A mask needs a picture to lie on, but this is none. Take the mask out.")
        key = place, x.shape
        if key not in self._weights:
            if len(self._weights) == MOST_WEIGHTS:
                self._weights.clear()
            everywhere = torch.ones(len(x), x[0, 0].numel())
            weights = [everywhere if mask is None else mask_weights(mask, place, x.shape[2:]) for mask in self._masks]
            self._weights[key] = torch.stack(weights, dim=1).to(x.device)
        return self._weights[key]

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

    def _needed(
        self, maps: torch.Tensor, active: torch.Tensor, levels: TermLevels, shown: torch.Tensor | None
    ) -> torch.Tensor:
        """The terms that may move anything here, int64: on the CPU those of concepts that these maps may show."""
        terms = self._terms
        if len(self._detectors) < len(terms) and maps.device.type == "cpu":  # a GPU has encoded all of them sooner
            z, now = self._detecting.before_topk(maps), levels[self._detectors]
            earlier = None if shown is None else shown[:, terms.statistics_column[self._detectors], None]
            shows = shown_in_maps(z, z > now.gate, now, self._mean_positions, earlier)
            may_show = torch.zeros_like(terms.steers)
            may_show[self._detectors] = shows[..., 0].any(dim=0)
            active = active & (may_show[terms.detector] | terms.steers)
        return active.nonzero()[:, 0]

    def _select(self, needed: torch.Tensor) -> Selection:
        """These terms, which are mostly those of the last step."""
        key = tuple(needed.tolist())
        if key not in self._selections:
            if len(self._selections) == MOST_SELECTIONS:
                self._selections.clear()
            self._selections[key] = Selection.of(
                self._terms[needed], self._latents, self._decoder, self._mean_positions
            )
        return self._selections[key]

    def _with_length_of(self, maps: torch.Tensor, edited: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
        """edited [images, d, positions], where `turned` [images, positions] as long as in maps, seen from the mean."""
        before, after = ((vectors - self._centre).square_().sum(dim=1) for vectors in (maps, edited))
        share = torch.where(turned, before / after.clamp(min=1e-24), 1).sqrt()
        return torch.lerp(self._centre, edited, share[:, None])
