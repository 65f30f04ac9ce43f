"""The edit: takes concepts out of the activations at one hookpoint, or brings them in.

    x' = x + sum over edited latents i of (z'_i - z_i) W_dec[i]

What the autoencoder cannot reconstruct passes through untouched, and positions where no erased latent fires and
nothing is strengthened are not touched at all, bit for bit.
"""

import copy

import torch

from .autoencoder import ACTIVATIONS, SparseAutoencoder
from .concepts import Concept, ConceptStatistics, term_ranges
from .erasure import PAPER_COMPAT, STEER, Erasure
from .largest import ScreenedEncoder
from .masks import Place, mask_weights
from .neighbours import take_from_neighbours


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
        self.sae, self.statistics, self._all = sae, statistics, encoder
        ranges = term_ranges(concepts)
        terms = [
            (erasure, term, latent)
            for erasure in erasures
            for term, latent in zip(ranges[erasure.concept], concepts[erasure.concept].latents, strict=True)
        ]
        first: list[int] = []  # for every term the one that has to fire somewhere in the map
        for erasure in erasures:
            concept, start = concepts[erasure.concept], len(first)
            first += [start if concept.first_detects else start + i for i in range(len(concept.latents))]
        self.latents = sorted({latent for _, _, latent in terms})
        device = sae.W_enc.device
        self._columns = torch.tensor([self.latents.index(latent) for *_, latent in terms], device=device)
        self._first = torch.tensor(first, device=device)
        self._detects = torch.tensor([term == own for own, term in enumerate(first)], device=device)
        self._terms = torch.tensor([term for _, term, _ in terms], device=device)

        def per_term(values):
            return torch.tensor(values, device=device, dtype=torch.float32)

        owners = [erasure for erasure, *_ in terms]
        self._strength = per_term([erasure.strength for erasure in owners])
        self._start = per_term([erasure.sigma_start for erasure in owners])
        self._end = per_term([erasure.sigma_end for erasure in owners])
        self._multiplier = per_term(
            [concepts[erasure.concept].multiplier if erasure.mode == "scale" else 0.0 for erasure in owners]
        )
        self._turn = per_term([concepts[erasure.concept].turn for erasure in owners])
        self._turns = torch.tensor([erasure.mode == "turn" for erasure in owners], device=device)
        self._clamps = torch.tensor([erasure.mode == "clamp" for erasure in owners], device=device)
        self._replaces = torch.tensor([erasure.mode == "replace" for erasure in owners], device=device)
        self._steers = torch.tensor([erasure.mode == STEER for erasure in owners], device=device)
        self._cond = torch.tensor([erasure.branch != "uncond" for erasure in owners], device=device)
        self._uncond = torch.tensor([erasure.branch != "cond" for erasure in owners], device=device)
        masks = {id(erasure.mask): erasure.mask for erasure in owners}
        self._masks = list(masks.values())
        self._mask_of = torch.tensor([list(masks).index(id(erasure.mask)) for erasure in owners], device=device)
        rows = torch.tensor(self.latents, device=device)
        self._encoder = sae.W_enc[rows] * sae.input_scale
        self._bias = sae.b_enc[rows] - self._encoder @ sae.input_shift - sae.W_enc[rows] @ sae.b_dec
        self._decoder = sae.W_dec[rows] / sae.input_scale
        self._centre = sae.input_shift[:, None]
        self._threshold = sae.threshold[rows, None] if sae.config.activation == "jumprelu" else sae.threshold
        if sae.config.activation == "topk":
            self._all = self._all or ScreenedEncoder(sae.W_enc, sae.b_enc, device)
            self._rows, self._scale, self._shift = rows, sae.input_scale, sae.input_shift + sae.b_dec / sae.input_scale

    def to(self, device: torch.device) -> "ConceptEdit":
        """The same edit on another device; what topk needs of the whole encoder stays where it is."""
        moved = copy.copy(self)
        moved.__dict__ |= {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        moved.statistics = self.statistics.to(device)
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
        active = (sigma[:, None] <= self._start) & (sigma[:, None] >= self._end)  # [images, terms]
        active &= torch.where(is_cond[:, None], self._cond, self._uncond)
        if not active.any():
            return x
        means = {name: mean[:, :, None] for name, mean in self.statistics.at(sigma, self._terms).items()}
        strength = active[:, :, None] * self._strengths(x, place)  # [images, terms, positions or 1]
        detects = torch.where(self._replaces[:, None], active[:, :, None], (strength > 0) & ~self._steers[:, None])
        gate = means["overall"].clamp(min=0).masked_fill(~detects, float("inf"))
        maps = x.flatten(2).float()
        z = self._latents(maps, gate)
        fires = z[:, self._columns] > gate  # [images, terms, positions]
        steered = self._steers[:, None] * strength * means["with_concept"]
        if not (fires.any() or steered.any()):
            return x
        fires &= fires.any(dim=2)[:, self._first, None]
        finds = self._detects & self._replaces & (self._strength > 0)
        detected = (fires & finds[:, None]).any(dim=1)  # [images, positions]
        has_donors = (~detected).any(dim=1)[:, None, None]
        moved = fires & (strength > 0) & ~(self._replaces[:, None] & has_donors)  # latents, not whole vectors
        change = self._change(z, moved, strength, means)
        edited = torch.baddbmm(maps, self._decoder.T.expand(len(maps), -1, -1), change)
        if self._turns.any():
            edited = self._with_length_of(maps, edited, (moved & self._turns[:, None]).any(dim=1))
        if steered.any():
            added = torch.zeros_like(change).index_add_(1, self._columns, steered.expand_as(fires))
            edited = torch.baddbmm(edited, self._decoder.T.expand(len(maps), -1, -1), added)
        edited = edited.to(x.dtype)
        changed = (moved | (steered > 0)).any(dim=1)
        result = torch.where(changed[:, None], edited, x.flatten(2))
        if self._replaces.any():
            shares = (fires * finds[:, None] * strength).amax(dim=1)
            result = take_from_neighbours(result, detected, shares, x.shape[-1])
        return result.reshape(x.shape)

    def _strengths(self, x: torch.Tensor, place: Place | None) -> torch.Tensor:
        """Strength of every term: [1, terms, 1], or [images, terms, positions] if there are masks."""
        strength = self._strength[:, None]
        if all(mask is None for mask in self._masks):
            return strength[None]
        if place is None:
            raise ValueError("A mask needs a picture to lie on, but this is none. Take the mask out.")
        everywhere = torch.ones(len(x), x[0, 0].numel(), device=x.device)
        weights = [everywhere if mask is None else mask_weights(mask, place, x.shape[2:]) for mask in self._masks]
        return strength * torch.stack(weights, dim=1)[:, self._mask_of]

    def _latents(self, maps: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Maps [images, d, positions] -> z of the erased latents [images, latents, positions].

        With topk the others are encoded too, but only at positions where an erased latent would pass its gate.
        """
        z = torch.baddbmm(self._bias[:, None], self._encoder.expand(len(maps), -1, -1), maps).relu_()
        match self.sae.config.activation:
            case "batchtopk" | "jumprelu":
                z *= z > self._threshold
            case "topk":
                assert self._all
                image, position = (z[:, self._columns] > gate).any(dim=1).nonzero(as_tuple=True)
                if not len(image):
                    return z
                vectors = maps[image, :, position].sub_(self._shift).mul_(self._scale)
                kept = torch.zeros_like(z, dtype=torch.bool)
                kept[image, :, position] = self._all.are_largest(
                    vectors, self._rows, z[image, :, position], self.sae.config.k
                )
                z *= kept
        return z

    def _change(
        self, z: torch.Tensor, moved: torch.Tensor, strength: torch.Tensor, means: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """z' - z of the erased latents, [images, latents, positions]; moved and strength [images, terms, positions]."""
        before = z[:, self._columns]
        target = self._multiplier[:, None] * means["with_concept"] * before
        target = torch.where(self._clamps[:, None], means["background"], target)
        target = torch.where(self._turns[:, None], -self._turn[:, None] * before, target)
        after = torch.where(moved, torch.lerp(before, target, strength.expand_as(before)), before)
        columns = self._columns[:, None].expand_as(after)
        return z.scatter_reduce(1, columns, after, "amin", include_self=False) - z

    def _with_length_of(self, maps: torch.Tensor, edited: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
        """edited [images, d, positions], where `turned` [images, positions] as long as in maps, seen from the mean."""
        before, after = maps - self._centre, edited - self._centre
        share = before.norm(dim=1, keepdim=True) / after.norm(dim=1, keepdim=True).clamp(min=1e-12)
        return torch.where(turned[:, None], self._centre + after * share, edited)
