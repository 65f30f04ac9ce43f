"""The autoencoder at the cost of one dense product.

Only the k latents kept of each vector carry activation and gradient. So of the six dense products of a training step
(encoder, decoder, and the gradients of both weights and both inputs) only the encoder's is left (see largest.py). All
others are sums over the few kept latents: of a vector's latents for the decoder, of a latent's vectors for the
gradients.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..sae_ops.autoencoder import SparseAutoencoder
from ..sae_ops.bf16 import bf16_linear
from ..sae_ops.largest import ScreenedEncoder, chosen_dots, largest, vector_of_each
from .distributed import gathered_filled_up, processes, rank, summed


class Kept(NamedTuple):
    """The latents kept of a batch, vector after vector."""

    values: torch.Tensor
    """fp32 [kept], at least 0."""
    latents: torch.Tensor
    """int64 [kept]."""
    starts: torch.Tensor
    """int64 [vectors], where in the two above each vector begins."""


def reconstruct(sae: SparseAutoencoder, x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, Kept]:
    """Normalised vectors fp32 [vectors, d] -> their reconstruction, fp32 [vectors, d], and the latents kept of them.

    dtype: that of the encoder's product, bf16 or fp32; all sums are fp32. Gradients reach the four weights of the SAE;
    a latent that is not kept has none.
    """
    kept = kept_latents(sae, x, dtype)
    return _Reconstruction.apply(x, kept, sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec), kept


@torch.no_grad()
def kept_latents(sae: SparseAutoencoder, x: torch.Tensor, dtype: torch.dtype) -> Kept:
    """topk: the k largest of every vector. batchtopk: the k * B largest of the batch, over all processes.

    jumprelu and relu, which can be extended but not trained from the start: all above the threshold.
    """
    k, n = sae.config.k, sae.config.n_latents
    centred = x - sae.b_dec
    if dtype == torch.float32:
        find = ScreenedEncoder(sae.W_enc, sae.b_enc, x.device).largest
    else:
        find = partial(largest, linear=bf16_linear(sae.W_enc, sae.b_enc))
        centred = centred.to(dtype)
    if sae.config.activation == "topk":
        values, latents = find(centred, count=k)
        starts = torch.arange(0, values.numel(), k, device=x.device)
        return Kept(values.float().relu().flatten(), latents.flatten(), starts)
    if sae.config.activation != "batchtopk":
        return _above(F.linear(centred.float(), sae.W_enc, sae.b_enc), sae.threshold.clamp(min=0))
    return _largest_of_batch(find, centred, k, n)


def _largest_of_batch(find: Callable[..., tuple[torch.Tensor, torch.Tensor]], x: torch.Tensor, k: int, n: int) -> Kept:
    """The k * B largest of the n pre_acts each of B vectors, over all processes, which have equally many of them.

    find(x, count=) -> the `count` largest of each vector. Those of which all that were found are among the largest of
    the batch may have more, and are searched again for four times as many.
    """
    rows, width = torch.arange(len(x), device=x.device), k
    settled: list[tuple[torch.Tensor, ...]] = []
    while True:
        width = min(4 * width, n)
        values, latents = find(x[rows], count=width)
        listed = rows[:, None].expand_as(latents), values.float(), latents
        owners, values, latents = map(torch.cat, zip(*settled, [part.flatten() for part in listed], strict=True))
        everyone = gathered_filled_up(values, -torch.inf)
        best = everyone.flatten().topk(k * len(x) * processes(), sorted=False)
        more = listed[1].amin(dim=1) > best.values.min()
        if width == n or not summed(more.sum()):
            break
        settled.append(tuple(part[~more].flatten() for part in listed))
        rows = rows[more]
    chosen = torch.zeros_like(everyone, dtype=torch.bool)
    chosen.view(-1)[best.indices] = True
    own = chosen[rank(), : len(values)].nonzero()[:, 0]
    if settled:  # those that were searched again come last
        own = own[owners[own].argsort(stable=True)]
    return Kept(values[own].relu(), latents[own], _starts(owners[own], len(x)))


def _above(pre_acts: torch.Tensor, threshold: torch.Tensor) -> Kept:
    chosen = pre_acts > threshold
    counts = chosen.sum(dim=1)
    return Kept(pre_acts[chosen], chosen.nonzero()[:, 1], counts.cumsum(0) - counts)


class _Reconstruction(torch.autograd.Function):
    """x^ = sum over kept latents of z_i W_dec[i], plus b_dec; z_i = W_enc[i] (x - b_dec) + b_enc[i]."""

    @staticmethod
    def forward(ctx, x, kept, W_enc, b_enc, W_dec, b_dec):
        ctx.save_for_backward(x, *kept, W_enc, W_dec, b_dec)
        return _sums(W_dec, kept.latents, kept.starts, kept.values) + b_dec

    @staticmethod
    def backward(ctx, gradient):
        x, values, latents, starts, W_enc, W_dec, b_dec = ctx.saved_tensors
        by_value = chosen_dots(gradient, W_dec, latents, starts) * (values > 0)
        in_order, order = latents.sort(stable=True)
        vectors, bags = vector_of_each(starts, len(latents))[order], _starts(in_order, len(W_enc))
        W_dec_gradient = _sums(gradient, vectors, bags, values[order])
        W_enc_gradient = _sums(x - b_dec, vectors, bags, by_value[order])
        b_enc_gradient = torch.zeros(len(W_enc), device=x.device).index_add_(0, latents, by_value)
        b_dec_gradient = gradient.sum(dim=0) - b_enc_gradient @ W_enc
        return None, None, W_enc_gradient, b_enc_gradient, W_dec_gradient, b_dec_gradient


def _starts(in_order: torch.Tensor, count: int) -> torch.Tensor:
    """Where each of the numbers 0..count - 1 begins among these, or would."""
    return torch.searchsorted(in_order, torch.arange(count, device=in_order.device))


def _sums(table: torch.Tensor, rows: torch.Tensor, starts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sums of rows of the table, one for every start; an empty one is 0."""
    return F.embedding_bag(rows, table, starts, per_sample_weights=weights, mode="sum")
