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
from .terms import Terms, list_terms


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
        terms, latents, self._masks = list_terms(concepts, erasures)
        self._terms, self._statistics = terms.to(device), statistics
        self._latents = ChosenLatents(sae, latents, encoder)
        self._detectors = self._terms.detects.nonzero()[:, 0]
        self._detecting = self._latents[self._terms.column[self._detectors]]
        self._decoder = sae.W_dec[torch.tensor(latents, device=device)] / sae.input_scale
        self._centre = sae.input_shift[:, None]

    def to(self, device: torch.device) -> "ConceptEdit":
        """The same edit on another device; what topk needs of the whole encoder stays where it is."""
        moved = copy.copy(self)
        moved.__dict__ |= {name: value.to(device) for name, value in vars(self).items() if hasattr(value, "to")}
        moved._masks = [mask if mask is None else mask.to(device) for mask in self._masks]
        return moved

    @torch.no_grad()
    def __call__(
        self, x: torch.Tensor, sigma: torch.Tensor, is_cond: torch.Tensor, place: Place | None = None
    ) -> torch.Tensor:
        """Maps [images, d, height, width], noise level and guidance half of each image [images] -> edited maps.

        place: where the maps lie in the picture; only masks need it. Works in fp32 and returns the dtype of x; returns
        x itself where nothing is to be edited. Raises ValueError if a mask does not fit.
        """
        active = self._terms.are_active(sigma, is_cond)
        if not active.any():
            return x
        now = _Now.of(self._terms, active, self._strengths(x, place), self._statistics, sigma)
        maps = x.flatten(2).float().contiguous()
        latents, decoder, places = self._latents, self._decoder, self._terms.column
        if len(self._detectors) < len(now.terms):
            now = now[self._needed(maps, now)]
            if not len(now.terms):
                return x
            columns, places = now.terms.column.unique(return_inverse=True)
            latents, decoder = latents[columns], decoder[columns]
        terms, steered = now.terms, now.steered
        z = latents.at_most(maps)
        z = latents.at_last(maps, z, now.fires(z[:, places]).any(dim=1))
        before = z[:, places]  # [images, terms, positions]
        fires = now.fires(before)
        if not (fires.any() or steered.any()):
            return x
        finds = terms.detects & terms.replaces & (terms.strength > 0)
        detected = (fires & finds[:, None]).any(dim=1)  # [images, positions]
        has_donors = (~detected).any(dim=1)[:, None, None]
        moved = fires & (now.strength > 0) & ~(terms.replaces[:, None] & has_donors)  # latents, not whole vectors
        after = torch.where(moved, now.target(before), before)
        change = z.scatter_reduce(1, places[:, None].expand_as(after), after, "amin", include_self=False) - z
        edited = torch.baddbmm(maps, decoder.T.expand(len(maps), -1, -1), change)
        if terms.turns.any():
            edited = self._with_length_of(maps, edited, (moved & terms.turns[:, None]).any(dim=1))
        if steered.any():
            added = torch.zeros_like(change).index_add_(1, places, steered.expand_as(before))
            edited = torch.baddbmm(edited, decoder.T.expand(len(maps), -1, -1), added)
        changed = (moved | (steered > 0)).any(dim=1)
        result = torch.where(changed[:, None], edited.to(x.dtype), x.flatten(2))
        if terms.replaces.any():
            shares = (fires * finds[:, None] * now.strength).amax(dim=1)
            result = take_from_neighbours(result, detected, shares, x.shape[2:])
        return result.reshape(x.shape)

    def _strengths(self, x: torch.Tensor, place: Place | None) -> torch.Tensor:
        """Strength of every term: [1, terms, 1], or [images, terms, positions] if there are masks."""
        strength = self._terms.strength[:, None]
        if all(mask is None for mask in self._masks):
            return strength[None]
        if place is None:
            raise ValueError("A mask needs a picture to lie on, but this is none. Take the mask out.")
        everywhere = torch.ones(len(x), x[0, 0].numel(), device=x.device)
        weights = [everywhere if mask is None else mask_weights(mask, place, x.shape[2:]) for mask in self._masks]
        return strength * torch.stack(weights, dim=1)[:, self._terms.mask]

    def _needed(self, maps: torch.Tensor, now: "_Now") -> torch.Tensor:
        """The terms of the concepts that may be in one of these maps, int64: all others would move nothing."""
        fires = self._detecting.at_most(maps) > now.gate[:, self._detectors]
        found = torch.zeros_like(now.terms.steers)
        found[self._detectors] = fires.any(dim=2).any(dim=0)
        return (found[now.terms.detector] | now.terms.steers).nonzero()[:, 0]

    def _with_length_of(self, maps: torch.Tensor, edited: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
        """edited [images, d, positions], where `turned` [images, positions] as long as in maps, seen from the mean."""
        before, after = ((vectors - self._centre).square_().sum(dim=1) for vectors in (maps, edited))
        share = torch.where(turned, before / after.clamp(min=1e-24), 1).sqrt()
        return torch.lerp(self._centre, edited, share[:, None])


@dataclass(frozen=True)
class _Now:
    """What holds for some terms in one call."""

    terms: Terms
    strength: torch.Tensor
    """[images, terms, 1 or positions]."""
    gate: torch.Tensor
    """What a latent has to exceed to fire, [images, terms, 1], inside a mask or not; infinite if it is not erased."""
    with_concept: torch.Tensor
    """mu(i, sigma, D_c), [images, terms, 1]."""
    background: torch.Tensor
    """mu(i, sigma, D_not c), [images, terms, 1]."""

    @staticmethod
    def of(
        terms: Terms, active: torch.Tensor, strength: torch.Tensor, statistics: ConceptStatistics, sigma: torch.Tensor
    ) -> "_Now":
        """active bool [images, terms], strength as of _strengths, sigma [images]."""
        means = {name: mean[:, :, None] for name, mean in statistics.at(sigma, terms.index).items()}
        erased = active & (terms.strength > 0) & ~terms.steers
        gate = means["overall"].clamp(min=0).masked_fill(~erased[:, :, None], float("inf"))
        return _Now(terms, active[:, :, None] * strength, gate, means["with_concept"], means["background"])

    def __getitem__(self, chosen: torch.Tensor) -> "_Now":
        parts = (self.strength, self.gate, self.with_concept, self.background)
        return _Now(self.terms[chosen], *(part[:, chosen] for part in parts))

    @property
    def steered(self) -> torch.Tensor:
        """What is added to z, [images, terms, 1 or positions]."""
        return self.terms.steers[:, None] * self.strength * self.with_concept

    def fires(self, z: torch.Tensor) -> torch.Tensor:
        """Where z [images, terms, positions] passes its gate, in maps in which that of its detector does."""
        passes = z > self.gate
        return passes & passes.any(dim=2)[:, self.terms.detector, None]

    def target(self, z: torch.Tensor) -> torch.Tensor:
        """z' [images, terms, positions] of erased latents."""
        target = self.terms.multiplier[:, None] * self.with_concept * z
        target = torch.where(self.terms.clamps[:, None], self.background, target)
        target = torch.where(self.terms.turns[:, None], -self.terms.turn[:, None] * z, target)
        return torch.lerp(z, target, self.strength.expand_as(z))
