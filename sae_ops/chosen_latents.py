"""Encodes some latents of an SAE without the others."""

import copy
from collections.abc import Sequence

import torch

from .autoencoder import SparseAutoencoder
from .bf16 import is_fast_at_bf16
from .largest import ScreenedEncoder

VECTORS_AT_ONCE = 2048
"""Of a topk SAE, whose latents must all be encoded."""


def encoder_of(sae: SparseAutoencoder, device: torch.device) -> ScreenedEncoder:
    """The encoder of an SAE, for few vectors on this device. It screens on the CPU alone: GPUs start kernels slowly."""
    return ScreenedEncoder(sae.W_enc, sae.b_enc, device, device.type == "cpu" and is_fast_at_bf16(device))


class ChosenLatents:
    """Some latents of one SAE, ready to be read from maps at every step."""

    def __init__(self, sae: SparseAutoencoder, latents: Sequence[int], encoder: ScreenedEncoder | None = None):
        """encoder: that of the SAE, if it is kept elsewhere; only topk needs more of it than the chosen latents."""
        self._latents = torch.tensor(latents, dtype=torch.long, device=sae.W_enc.device)
        self._config, self._encoder = sae.config, encoder
        weight = sae.W_enc[self._latents]
        self._weight = weight * sae.input_scale
        self._bias = sae.b_enc[self._latents] - self._weight @ sae.input_shift - weight @ sae.b_dec
        self._threshold = sae.threshold.expand(len(sae.W_enc))[self._latents]
        if sae.config.activation == "batchtopk":
            self._common_threshold = max(0.0, sae.threshold.item())
        if sae.config.activation == "topk":
            self._encoder = encoder or encoder_of(sae, sae.W_enc.device)
            self._scale, self._shift = sae.input_scale, sae.input_shift + sae.b_dec / sae.input_scale

    def __getitem__(self, columns: torch.Tensor) -> "ChosenLatents":
        """Those of these columns alone, int64 [latents]."""
        some = copy.copy(self)
        for name in ("_latents", "_weight", "_bias", "_threshold"):
            setattr(some, name, getattr(self, name)[columns])
        return some

    def to(self, device: torch.device) -> "ChosenLatents":
        """The same on another device; what topk needs of the whole encoder stays where it is."""
        moved = copy.copy(self)
        moved.__dict__ |= {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return moved

    def __call__(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps fp32 [images, d, positions] -> z [images, latents, positions], as SparseAutoencoder encodes."""
        z = self.before_topk(maps)
        return self.after_topk(maps, z, (z > 0).any(dim=1))

    def before_topk(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps fp32 [images, d, positions] -> z [images, latents, positions], of which topk may still drop some."""
        z = torch.baddbmm(self._bias[:, None], self._weight.expand(len(maps), -1, -1), maps)
        if self._config.activation == "batchtopk":
            return torch.threshold_(z, self._common_threshold, 0.0)
        z.relu_()
        if self._config.activation == "jumprelu":
            z *= z > self._threshold[:, None]
        return z

    def after_topk(self, maps: torch.Tensor, z: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        """What topk leaves of before_topk's z at positions that are asked for, bool [images, positions]; 0 elsewhere.

        topk encodes the others too, but only there.
        """
        if self._config.activation != "topk":
            return z
        assert self._encoder
        kept = 0 * z  # NaN stays NaN
        for some in asked.nonzero().split(VECTORS_AT_ONCE):
            image, position = some.unbind(dim=1)
            if len(some):
                vectors, own = maps[image, :, position].sub_(self._shift).mul_(self._scale), z[image, :, position]
                kept[image, :, position] = own * self._encoder.are_largest(vectors, self._latents, own, self._config.k)
        return kept
