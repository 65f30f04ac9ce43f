"""How an SAE is trained."""

import math
from dataclasses import asdict, dataclass

import torch

from ..sae_ops.bf16 import is_fast_at_bf16
from ..sae_ops.sae_file import TRAINED_BRANCHES

PRECISIONS = ("bf16", "fp32")
ASSIGNMENTS = ("greedy", "optimal")
DEFAULT_K = 32
"""Latents kept for each vector."""


@dataclass(frozen=True)
class TrainingConfig:
    """The defaults suit a cache of a few hundred thousand vectors."""

    unsupervised_steps: int = 1000
    """0 trains both losses from the start, with latents assigned at random."""
    supervised_steps: int = 2000
    """0 leaves the SAE unsupervised, each concept on the latent with its best score."""
    vectors: int = 2048
    """Activation vectors a step in the unsupervised phase."""
    maps: int = 96
    """Maps (one image at one noise level) a step in the supervised phase."""
    learning_rate: float | None = None
    """Adam's; None is 2e-4 / sqrt(n / 2^14). It falls to zero over the last fifth of each phase."""
    precision: str | None = None
    """That of the encoder's product while training; weights, sums, losses and thresholds are always fp32. None is bf16
    where the machine is fast at it, else fp32."""
    dead_after: int = 200_000
    """A latent is dead when it has not fired for this many vectors."""
    auxiliary_weight: float = 1 / 32
    """How much the loss by which dead latents learn counts, beside the reconstruction."""
    concept_weight: float = 0.3
    """How much the concept loss counts, beside the reconstruction."""
    decorrelation_weight: float = 0.1
    """How much decorrelation counts within the concept loss."""
    silence_weight: float = 1.0
    """How much silence counts within it."""
    guidance_weight: float = 3.0
    """How much the guidance loss counts, beside the reconstruction, where the cache holds both halves of guidance."""
    assignment: str = "greedy"
    """"greedy": the best score of all takes its concept and latent, and so on. "optimal": the largest sum over the
    concepts' first latents."""
    concept_latents: int | None = None
    """Latents of every concept: its own, and those that carry most of what it does not. None is 24, or as many as there
    are for each label. Of the branch "uncond" it is 8, which together tell the concept."""
    validations: int = 20
    """How often each phase is measured on images held out; the best weights are kept."""
    patience: int = 5
    """A phase stops early after this many validations without an improvement."""
    statistics_vectors: int = 4_000_000
    """Activation vectors that scores, statistics and strengths are computed from."""
    branch: str = "cond"
    """The half of guidance that concepts are learned from: "cond", what prompts ask for, to erase it; "uncond", what is
    drawn, whatever the prompt says, to watch it."""
    spare_look_alikes: bool = False
    """Erase a concept in pictures from the step on in which they show more of it than nearly all of each other concept:
    look-alikes stay, and so does what shows only a little of it. Only with the branch "cond"."""
    seed: int = 0
    """The seed of all random choices."""

    def __post_init__(self):
        if self.precision not in (None, *PRECISIONS):
            raise ValueError(f"Unknown precision '{self.precision}'; known are {', '.join(PRECISIONS)}.")
        if self.assignment not in ASSIGNMENTS:
            raise ValueError(f"Unknown assignment '{self.assignment}'; known are {', '.join(ASSIGNMENTS)}.")
        if self.branch not in TRAINED_BRANCHES:
            raise ValueError(f"Unknown branch '{self.branch}'; known are {', '.join(TRAINED_BRANCHES)}.")
        if self.spare_look_alikes and self.branch != "cond":
            raise ValueError("Look-alikes are spared when erasing. Leave out --spare-look-alikes, or --branch uncond.")
        for name in ("vectors", "maps", "concept_latents", "validations", "patience", "statistics_vectors"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{_option(name)} is {getattr(self, name)}, but must be at least 1.")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"--learning-rate is {self.learning_rate}, but must be a number above 0.")
        weights = ("auxiliary_weight", "concept_weight", "decorrelation_weight", "silence_weight", "guidance_weight")
        for name in ("unsupervised_steps", "supervised_steps", "dead_after", *weights):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{_option(name)} is {getattr(self, name)}, but must be a number of at least 0.")

    def precision_on(self, device: torch.device) -> str:
        """The precision, or if none is set that of this device."""
        return self.precision or ("bf16" if is_fast_at_bf16(device) else "fp32")

    def has_trained(self, training: dict) -> bool:
        """Whether an SAE with these facts of its training, as its file has them, was trained with these settings.

        A setting that an older file does not name was off. If no precision is set, that of any machine will do.
        """
        settings = asdict(self)
        if self.precision is None:
            del settings["precision"]
        return all(training.get(name, False) == value for name, value in settings.items())


def _option(field: str) -> str:
    """Its name on the command line."""
    return f"--{field.replace('_', '-')}"
