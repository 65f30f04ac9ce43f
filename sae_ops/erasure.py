"""What a user asks for: which concept to erase or to strengthen, how, when, and where in the picture."""

import math
from dataclasses import dataclass

import torch

MODES = ("turn", "scale", "ablate", "clamp", "replace")
"""Modes that erase."""
STEER = "steer"
"""The mode that strengthens."""
PAPER_COMPAT = "paper_compat"
"""The mode of paper_edit.py alone."""
BRANCHES = ("both", "cond", "uncond")


@dataclass(frozen=True, eq=False)
class Erasure:
    """One concept to erase, or with the mode "steer" to strengthen; how, when and where."""

    concept: int
    """Index into the concepts of the SAE file."""
    strength: float = 1.0
    """0 leaves everything as it is, 1 is what the SAE was made for, in between and beyond it is linear in z'."""
    mode: str = "turn"
    """Where z exceeds its mean over all pictures, mu(sigma, D), and, if the concept's first latent detects it, where
    that one does so somewhere in the map, the latent becomes

    "turn": z' = -turn * z, and the whole vector keeps its length, so that it points away from the concept but stays as
    large as the model expects it, however great the strength,
    "scale": z' = multiplier * mu(sigma, D_c) * z (SAeUron, arXiv 2501.18052, with the right sign of the error),
    "ablate": z' = 0,
    "clamp": z' = its mean over pictures without the concept,
    "replace": the whole vector becomes that of the nearest position of the same map where the concept was not
    detected (PER, arXiv 2606.31699); where there is none, the latent is ablated.

    At every position, whether the latent fires there or not, besides what the others make of it,

    "steer": z' = z + mu(sigma, D_c) at strength 1.
    """
    sigma_start: float = float("inf")
    """Edits only at noise levels between sigma_start and sigma_end, both included."""
    sigma_end: float = 0.0
    branch: str = "both"
    """Which half of classifier-free guidance is edited: "cond", "uncond" or "both"."""
    mask: torch.Tensor | None = None
    """Scales the strength at every place of the picture: fp32 [masks, height, width] in 0 to 1, of any size; one mask
    for all pictures that are sampled at once, or one for each. None is everywhere."""

    def __post_init__(self):
        if self.mode not in (*MODES, STEER, PAPER_COMPAT):
            raise ValueError(f"Unknown mode '{self.mode}'; known are {', '.join(MODES)}, {STEER}, {PAPER_COMPAT}.")
        if self.branch not in BRANCHES:
            raise ValueError(f"Unknown branch '{self.branch}'; known are {', '.join(BRANCHES)}.")
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"The strength is {self.strength:g}, but must be a number from 0 on.")
        if not self.sigma_end <= self.sigma_start:
            raise ValueError(
                f"The noise levels begin at {self.sigma_start:g} and end at {self.sigma_end:g}, but noise falls. "
                "Exchange start and end."
            )
        if self.mode == PAPER_COMPAT and self.mask is not None:
            raise ValueError(f"The mode {PAPER_COMPAT} changes the whole picture, so it takes no mask.")
