"""The edit: takes concepts out of the activations at one hookpoint.

    x' = x + sum over erased latents i of (z'_i - z_i) W_dec[i]

What the autoencoder cannot reconstruct passes through untouched, and positions where no erased latent fires are
not touched at all, bit for bit.
"""

import copy
from dataclasses import dataclass

import torch

from .autoencoder import ACTIVATIONS, SparseAutoencoder
from .concepts import Concept, ConceptStatistics, term_ranges
from .largest import ScreenedEncoder

MODES = ("scale", "ablate", "clamp", "replace")
PAPER_COMPAT = "paper_compat"
"""The mode of paper_edit.py alone."""
BRANCHES = ("both", "cond", "uncond")


@dataclass(frozen=True)
class Erasure:
    """One concept to erase, how, and when."""

    concept: int
    """Index into the concepts of the SAE file."""
    strength: float = 1.0
    """0 leaves everything as it is, 1 is the calibrated edit, in between and beyond it is linear in z'."""
    mode: str = "scale"
    """Where z exceeds its mean over all pictures, mu(sigma, D), the latent becomes

    "scale": z' = multiplier * mu(sigma, D_c) * z (SAeUron, arXiv 2501.18052, with the right sign of the error),
    "ablate": z' = 0,
    "clamp": z' = its mean over pictures without the concept,
    "replace": the whole vector becomes that of the nearest position of the same map where the concept was not
    detected (PER, arXiv 2606.31699); where there is none, the latent is ablated.
    """
    sigma_start: float = float("inf")
    """Edits only at noise levels between sigma_start and sigma_end, both included."""
    sigma_end: float = 0.0
    branch: str = "both"
    """Which half of classifier-free guidance is edited: "cond", "uncond" or "both"."""

    def __post_init__(self):
        if self.mode not in (*MODES, PAPER_COMPAT):
            raise ValueError(f"Unknown mode '{self.mode}'; known are {', '.join(MODES)}, {PAPER_COMPAT}.")
        if self.branch not in BRANCHES:
            raise ValueError(f"Unknown branch '{self.branch}'; known are {', '.join(BRANCHES)}.")


class ConceptEdit:
    """All erasures of one SAE, prepared to run at every step with one encode.

    The order of the erasures does not matter: of several that share a latent, the one that lowers it most wins.
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
        self.latents = sorted({latent for _, _, latent in terms})
        device = sae.W_enc.device
        self._columns = torch.tensor([self.latents.index(latent) for *_, latent in terms], device=device)
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
        self._clamps = torch.tensor([erasure.mode == "clamp" for erasure in owners], device=device)
        self._replaces = torch.tensor([erasure.mode == "replace" for erasure in owners], device=device)
        self._cond = torch.tensor([erasure.branch != "uncond" for erasure in owners], device=device)
        self._uncond = torch.tensor([erasure.branch != "cond" for erasure in owners], device=device)
        rows = torch.tensor(self.latents, device=device)
        self._encoder = sae.W_enc[rows] * sae.input_scale
        self._bias = sae.b_enc[rows] - self._encoder @ sae.input_shift - sae.W_enc[rows] @ sae.b_dec
        self._decoder = sae.W_dec[rows] / sae.input_scale
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
        return moved

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, is_cond: torch.Tensor) -> torch.Tensor:
        """Maps [images, d, height, width], noise level and guidance half of each image [images] -> edited maps.

        Works in fp32 and returns the dtype of x; returns x itself where nothing is to be edited.
        """
        active = (sigma[:, None] <= self._start) & (sigma[:, None] >= self._end)  # [images, terms]
        active &= torch.where(is_cond[:, None], self._cond, self._uncond)
        if not active.any():
            return x
        means = {name: mean[:, :, None] for name, mean in self.statistics.at(sigma, self._terms).items()}
        gate = means["overall"].clamp(min=0).masked_fill(~active[:, :, None], float("inf"))  # [images, terms, 1]
        maps = x.flatten(2).float()
        z = self._latents(maps, gate)
        fires = z[:, self._columns] > gate  # [images, terms, positions]
        if not fires.any():
            return x
        replaced = (fires * (self._replaces * self._strength)[:, None]).amax(dim=1)  # [images, positions]
        has_donors = (replaced == 0).any(dim=1)[:, None, None]
        moved = fires & ~(self._replaces[:, None] & has_donors)  # where latents move instead of whole vectors
        change = self._change(z, moved, means)
        edited = torch.baddbmm(maps, self._decoder.T.expand(len(maps), -1, -1), change).to(x.dtype)
        result = torch.where(moved.any(dim=1)[:, None], edited, x.flatten(2))
        if self._replaces.any():
            result = _take_from_neighbours(result, replaced, x.shape[-1])
        return result.reshape(x.shape)

    def _latents(self, maps: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Maps [images, d, positions] -> z of the erased latents [images, latents, positions].

        With topk the others are encoded too, but only at positions where an erased latent would pass its gate.
        """
        pre_acts = torch.baddbmm(self._bias[:, None], self._encoder.expand(len(maps), -1, -1), maps)
        z = pre_acts.relu()
        match self.sae.config.activation:
            case "batchtopk" | "jumprelu":
                z *= z > self._threshold
            case "topk":
                assert self._all
                image, position = (z[:, self._columns] > gate).any(dim=1).nonzero(as_tuple=True)
                if not len(image):
                    return z
                vectors = (maps[image, :, position] - self._shift) * self._scale
                kept = torch.zeros_like(z, dtype=torch.bool)
                kept[image, :, position] = self._all.are_largest(
                    vectors, self._rows, pre_acts[image, :, position], self.sae.config.k
                )
                z *= kept
        return z

    def _change(self, z: torch.Tensor, moved: torch.Tensor, means: dict[str, torch.Tensor]) -> torch.Tensor:
        """z' - z of the erased latents, [images, latents, positions]; moved [images, terms, positions]."""
        before = z[:, self._columns]
        target = self._multiplier[:, None] * means["with_concept"] * before
        target = torch.where(self._clamps[:, None], means["background"], target)
        after = torch.where(moved, torch.lerp(before, target, self._strength[:, None]), before)
        columns = self._columns[:, None].expand_as(after)
        return z.scatter_reduce(1, columns, after, "amin", include_self=False) - z


def _take_from_neighbours(maps: torch.Tensor, replaced: torch.Tensor, width: int) -> torch.Tensor:
    """Blends every position with replaced > 0 [images, positions] into the nearest one where it is 0."""
    result = maps.clone()
    positions = torch.arange(maps.shape[-1], device=maps.device)
    places = torch.stack([positions // width, positions % width], dim=1).float()
    for image, weight in enumerate(replaced):
        detected, donors = weight.nonzero()[:, 0], (weight == 0).nonzero()[:, 0]
        if len(detected) and len(donors):
            nearest = donors[torch.cdist(places[detected], places[donors]).argmin(dim=1)]
            share = weight[detected].clamp(max=1).to(maps.dtype)
            result[image][:, detected] = torch.lerp(maps[image][:, detected], maps[image][:, nearest], share)
    return result
