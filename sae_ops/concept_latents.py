"""Reads how strongly every concept's latents fire, without encoding the others."""

import copy

import torch
from torch.nn import functional as F

from .autoencoder import SparseAutoencoder
from .concepts import Concept
from .largest import ScreenedEncoder

VECTORS_AT_ONCE = 2048
"""Of a topk SAE, whose latents must all be encoded."""


class ConceptLatents:
    """The latents of all concepts of one SAE, ready to be read from maps at every step."""

    def __init__(self, sae: SparseAutoencoder, concepts: tuple[Concept, ...], encoder: ScreenedEncoder | None = None):
        """encoder: that of the SAE, if it is kept elsewhere; only topk needs more of it than the concepts' latents."""
        rows = [latent for concept in concepts for latent in concept.latents]
        self._latents = torch.tensor(rows, dtype=torch.long, device=sae.W_enc.device)
        self._config, self._all = sae.config, encoder
        self._weight = sae.W_enc[self._latents] * sae.input_scale
        self._bias = sae.b_enc[self._latents] - self._weight @ sae.input_shift - sae.W_enc[self._latents] @ sae.b_dec
        self._threshold = sae.threshold[self._latents] if sae.config.activation == "jumprelu" else sae.threshold
        if sae.config.activation == "topk":
            self._all = encoder or ScreenedEncoder(sae.W_enc, sae.b_enc, sae.W_enc.device)
            self._scale, self._shift = sae.input_scale, sae.input_shift + sae.b_dec / sae.input_scale

    def to(self, device: torch.device) -> "ConceptLatents":
        """The same on another device; what topk needs of the whole encoder stays where it is."""
        moved = copy.copy(self)
        moved.__dict__ |= {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return moved

    @torch.no_grad()
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [images, d, positions...] -> z [images, terms, positions...] in fp32, as SparseAutoencoder encodes.

        Terms are those of ConceptStatistics.
        """
        vectors = x.flatten(2).movedim(1, 2).float()  # [images, positions, d]
        z = F.linear(vectors, self._weight, self._bias).relu()
        match self._config.activation:
            case "batchtopk" | "jumprelu":
                z = z * (z > self._threshold)
            case "topk":
                z = self._among_largest(vectors.flatten(0, 1), z.flatten(0, 1)).reshape(z.shape)
        return z.movedim(1, 2).unflatten(2, x.shape[2:])

    def _among_largest(self, vectors: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """z [vectors, terms] where the latent is among the k largest of its vector [vectors, d], else 0."""
        assert self._all
        kept = torch.zeros_like(z)
        for some in (z > 0).any(dim=1).nonzero()[:, 0].split(VECTORS_AT_ONCE):
            encoded = (vectors[some] - self._shift) * self._scale
            if len(some):
                kept[some] = z[some] * self._all.are_largest(encoded, self._latents, z[some], self._config.k)
        return kept
