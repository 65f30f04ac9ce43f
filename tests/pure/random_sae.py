"""SAEs with random weights: nothing in them is trained, so tests that use them depend on no training result."""

import torch

from sae_eraser.sae_ops.autoencoder import SAEConfig, SparseAutoencoder
from sae_eraser.sae_ops.concepts import Concept, ConceptStatistics

CONCEPTS = (
    Concept("disc", "object", (0,), -1.5),
    Concept("box", "object", (1, 5), -0.5),
    Concept("wavy", "style", (2,), -3.0),
    Concept("grainy", "style", (5, 7), 0.5),
)
"""Two groups; "box" and "grainy" share latent 5."""

SIGMAS = torch.tensor([0.1, 1.0, 10.0])


def random_sae(activation: str = "relu", d: int = 12, n: int = 24, k: int = 6, seed: int = 0) -> SparseAutoencoder:
    """Every tensor is random, input shift and scale too; about half of the latents fire at a normal vector."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    sae = SparseAutoencoder(SAEConfig(d, n, activation, k)).requires_grad_(False)
    sae.W_enc.copy_(normal(n, d) / d**0.5)
    sae.b_enc.copy_(0.1 * normal(n))
    sae.W_dec.copy_(torch.nn.functional.normalize(normal(n, d), dim=1))
    sae.b_dec.copy_(0.1 * normal(d))
    sae.input_shift.copy_(0.2 * normal(d))
    sae.input_scale.fill_(1.7)
    sae.threshold.copy_(torch.rand(sae.threshold.shape, generator=generator) * 0.4 + 0.2)
    return sae


def random_statistics(concepts: tuple[Concept, ...] = CONCEPTS, seed: int = 0) -> ConceptStatistics:
    """Gates around 0.4, so that latents pass them at some positions and not at others."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(SIGMAS), sum(len(concept.latents) for concept in concepts))
    background = 0.1 + 0.2 * torch.rand(shape, generator=generator)
    with_concept = 0.6 + 0.4 * torch.rand(shape, generator=generator)
    return ConceptStatistics(SIGMAS, with_concept, background, (background + with_concept) / 2)
