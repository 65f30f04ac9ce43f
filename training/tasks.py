"""What latents are to tell about maps, and the losses by which they learn it."""

from typing import Protocol

import torch
import torch.nn.functional as F

from ..sae_ops.autoencoder import SparseAutoencoder
from .config import TrainingConfig
from .losses import activations, concept_loss, decorrelation_loss, presence_loss, silence_loss


class Task(Protocol):
    """How a batch of maps is read, and how far that is from its labels."""

    carriers: torch.Tensor
    """(label, latent) for every latent that a label has, int [pairs, 2]; the concepts' labels come first."""
    concepts: int

    def read(self, sae: SparseAutoencoder, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Normalised maps [maps, positions, d] -> tables [maps, concepts]; a concept is met where the first is > 0."""
        ...

    def loss(self, *read: torch.Tensor, labels: torch.Tensor, config: TrainingConfig) -> torch.Tensor:
        """read: what read() gives; labels 0/1 [maps, concepts]."""
        ...


class ConceptTask:
    """Which latents shall tell which concepts prompts name, and the loss for it."""

    def __init__(self, carriers: list[list[int]], groups: list[str], labels: torch.Tensor, similarity: torch.Tensor):
        """carriers: the latents of each label, its own first. groups: one of each concept.

        labels bool [images, concepts] of the training images; similarity [concepts, concepts] in 0..1.
        """
        device = similarity.device
        self.carriers = _pairs(carriers).to(device)
        self.concepts = len(groups)
        self._latents = torch.tensor([own for own, *_ in carriers[: self.concepts]], device=device)
        self._groups = torch.tensor([sorted(set(groups)).index(group) for group in groups], device=device)
        self._similarity = similarity
        self._balance = _balance(labels).to(device)

    def read(self, sae: SparseAutoencoder, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return logits_and_firing(sae, x, self._latents)

    def loss(self, *read: torch.Tensor, labels: torch.Tensor, config: TrainingConfig) -> torch.Tensor:
        """BCE + decorrelation + silence, as weighted in the config."""
        logits, firing = read
        return (
            concept_loss(logits, labels, self._balance)
            + config.decorrelation_weight * decorrelation_loss(logits, self._groups, self._similarity)
            + config.silence_weight * silence_loss(firing, labels)
        )


class DrawnTask:
    """Which latents together shall tell which concepts are drawn, and the loss for it."""

    def __init__(self, carriers: list[list[int]], labels: torch.Tensor, device: torch.device):
        """carriers: as many latents of each concept. labels bool [images, concepts] of the training images."""
        self.carriers = _pairs(carriers).to(device)
        self.concepts = len(carriers)
        self._latents = torch.tensor(carriers, device=device)
        self._balance = _balance(labels).to(device)

    def read(self, sae: SparseAutoencoder, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """How much of each concept is there, less a half: its latents' activations, summed, as means over positions."""
        z = activations(sae, x, self._latents.flatten()).mean(dim=1)
        return (z.unflatten(1, self._latents.shape).sum(dim=2) - 0.5,)

    def loss(self, *read: torch.Tensor, labels: torch.Tensor, config: TrainingConfig) -> torch.Tensor:
        (there,) = read
        return presence_loss(there + 0.5, labels, self._balance)


def logits_and_firing(
    sae: SparseAutoencoder, x: torch.Tensor, latents: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised maps [maps, positions, d] -> means over positions of these latents' pre_acts and of their ReLU.

    Both [maps, latents].
    """
    pre_acts = F.linear(x - sae.b_dec, sae.W_enc[latents], sae.b_enc[latents])
    return pre_acts.mean(dim=1), pre_acts.relu().mean(dim=1)


def _pairs(carriers: list[list[int]]) -> torch.Tensor:
    return torch.tensor([(label, latent) for label, own in enumerate(carriers) for latent in own])


def _balance(labels: torch.Tensor) -> torch.Tensor:
    """How much more pictures with a concept weigh than those without, [concepts]."""
    positives = labels.float().mean(dim=0)
    return ((1 - positives) / positives.clamp(min=1e-6)).clamp(max=20).sqrt()
