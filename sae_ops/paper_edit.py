"""paper_compat: the edit as SAeUron published it, with its mistakes; for comparison only, never the default."""

import copy
from dataclasses import dataclass, replace

import torch

from .autoencoder import SparseAutoencoder
from .concepts import Concept, ConceptStatistics, term_ranges
from .erasure import PAPER_COMPAT, Erasure


@dataclass(frozen=True, eq=False)
class PaperEdit:
    """x' = 2 x^ - x + sum over erased latents i of (z'_i - z_i) W_dec[i], at every position.

    z'_i = multiplier * mu(sigma, D_c) * z_i where z_i > mu(sigma, D), else z_i. The published code computes the error
    as x^ - x and adds it, so that x itself has the wrong sign and nothing of the picture stays as it was, even where no
    erased latent fires. Of several erasures that share a latent the last one wins. (SAeUron, arXiv 2501.18052;
    ConceptEdit is the edit without these two mistakes.)

    Takes the arguments of ConceptEdit and is called like it. Raises ValueError on any mode but "paper_compat".
    """

    sae: SparseAutoencoder
    concepts: tuple[Concept, ...]
    statistics: ConceptStatistics
    erasures: tuple[Erasure, ...]

    def __post_init__(self):
        if {erasure.mode for erasure in self.erasures} != {PAPER_COMPAT}:
            raise ValueError(f"{PAPER_COMPAT} cannot be combined with other modes in one SAE. Choose it everywhere.")

    def to(self, device: torch.device) -> "PaperEdit":
        """The same edit on another device."""
        return replace(self, sae=copy.deepcopy(self.sae).to(device))

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, is_cond: torch.Tensor) -> torch.Tensor:
        """Maps [images, d, height, width], noise level and guidance half of each image [images] -> edited maps.

        Works in fp32 and returns the dtype of x; an image outside the range and branch of all erasures stays itself.
        """
        result = x.clone()
        for index, (level, cond) in enumerate(zip(sigma.cpu(), is_cond.tolist(), strict=True)):
            active = [erasure for erasure in self.erasures if _is_active(erasure, float(level), cond)]
            if active:
                positions = x[index].flatten(1).T.float()
                result[index] = self._edited(positions, level, active).T.reshape(x[index].shape).to(x.dtype)
        return result

    def _edited(self, x: torch.Tensor, sigma: torch.Tensor, erasures: list[Erasure]) -> torch.Tensor:
        """x [positions, d] of one picture -> the same, edited."""
        z = self.sae.encode(x)
        edited, ranges = z.clone(), term_ranges(self.concepts)
        for erasure in erasures:
            concept = self.concepts[erasure.concept]
            terms, latents = list(ranges[erasure.concept]), list(concept.latents)
            means = self.statistics.at(sigma[None], torch.tensor(terms))
            before = z[:, latents]
            target = concept.multiplier * means["with_concept"].to(x.device) * before
            after = before + erasure.strength * (target - before)
            edited[:, latents] = torch.where(before > means["overall"].to(x.device), after, before)
        error = self.sae.decode(z, x) - x
        return self.sae.decode(edited, x) + error


def _is_active(erasure: Erasure, sigma: float, is_cond: bool) -> bool:
    in_branch = erasure.branch == "both" or (erasure.branch == "cond") == is_cond
    return erasure.sigma_end <= sigma <= erasure.sigma_start and in_branch
