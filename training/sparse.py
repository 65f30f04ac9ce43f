"""The autoencoder at the cost of one dense product.

Only the k latents kept of each vector carry activation and gradient. So of the six dense products of a training step
(encoder, decoder, and the gradients of both weights and both inputs) only the encoder's is left; it runs over blocks of
vectors that stay in the processor's cache until the largest latents are chosen, for fp32 after a screening in bf16. All
others are sums over the few kept latents: of a vector's latents for the decoder, of a latent's vectors for the gradients.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..sae_ops.autoencoder import SparseAutoencoder
from ..sae_ops.screening import bf16_error, chosen_dots, is_worthwhile
from .distributed import gathered, processes, rank

VECTORS_PER_BLOCK = 512
LATENTS_PER_GROUP = 8


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
    """topk: the k largest of every vector. batchtopk: the k * B largest of the batch, over all processes."""
    k, n = sae.config.k, sae.config.n_latents
    largest = _largest_in_fp32 if dtype == torch.float32 and is_worthwhile(x.device) else _largest
    weight, bias = sae.W_enc.to(dtype), sae.b_enc.to(dtype)
    centred = (x - sae.b_dec).to(dtype)
    if sae.config.activation == "topk":
        values, latents = largest(centred, weight, bias, k)
        starts = torch.arange(0, values.numel(), k, device=x.device)
        return Kept(values.float().relu().flatten(), latents.flatten(), starts)
    width = k
    while True:  # until no vector has more latents above the threshold than were looked at
        width = min(4 * width, n)
        values, latents = largest(centred, weight, bias, width)
        everyone = gathered(values.flatten().float())
        best = everyone.topk(k * len(everyone) // width, sorted=False)
        if width == n or not gathered((values.amin(dim=1) > best.values.min())[:, None].float()).any():
            break
    chosen = torch.zeros_like(everyone, dtype=torch.bool)
    chosen[best.indices] = True
    chosen = chosen.view(processes(), *values.shape)[rank()]
    counts = chosen.sum(dim=1)
    return Kept(values[chosen].float().relu(), latents[chosen], counts.cumsum(0) - counts)


def _largest(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest of x @ weight.T + bias for every vector, in no order: values and latents [vectors, count]."""
    chosen = [_largest_of_rows(F.linear(block, weight, bias), count) for block in x.split(VECTORS_PER_BLOCK)]
    values, latents = zip(*chosen, strict=True)
    return torch.cat(values), torch.cat(latents)


def _largest_in_fp32(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, out of the 2 * count that are largest in bf16; for vectors where these may miss one, out of all."""
    if 2 * count >= len(weight):
        return _largest(x, weight, bias, count)
    rough, candidates = _largest(x.bfloat16(), weight.bfloat16(), bias.bfloat16(), 2 * count)
    starts = torch.arange(0, candidates.numel(), 2 * count, device=x.device)
    exact = chosen_dots(x, weight, candidates.flatten(), starts).view_as(rough) + bias[candidates]
    values, places = exact.topk(count, dim=1, sorted=False)
    latents = candidates.gather(1, places)
    left_out = rough.amin(dim=1).float()
    certain = values.amin(dim=1) > left_out + bf16_error(x, weight, bias, left_out.abs())
    unsure = (~certain).nonzero()[:, 0]
    if len(unsure):
        values[unsure], latents[unsure] = _largest(x[unsure], weight, bias, count)
    return values, latents


def _largest_of_rows(rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """topk that first finds the groups: the `count` largest lie in the `count` groups with the largest maxima."""
    groups, rest = divmod(rows.shape[1], LATENTS_PER_GROUP)
    if rest or groups < 2 * count:
        values, latents = rows.topk(count, dim=1, sorted=False)
        return values, latents
    maxima = rows.unflatten(1, (LATENTS_PER_GROUP, groups)).amax(dim=1)
    best = maxima.topk(count, dim=1, sorted=False).indices
    members = (best[:, None] + groups * torch.arange(LATENTS_PER_GROUP, device=rows.device)[:, None]).flatten(1)
    values, places = rows.gather(1, members).topk(count, dim=1, sorted=False)
    return values, members.gather(1, places)


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
        order = latents.argsort(stable=True)
        sizes = torch.diff(starts, append=starts.new_tensor([len(latents)]))
        vectors = torch.repeat_interleave(sizes)[order]
        counts = torch.bincount(latents, minlength=len(W_enc))
        bags = counts.cumsum(0) - counts
        W_dec_gradient = _sums(gradient, vectors, bags, values[order])
        W_enc_gradient = _sums(x - b_dec, vectors, bags, by_value[order])
        b_enc_gradient = torch.zeros(len(W_enc), device=x.device).index_add_(0, latents, by_value)
        b_dec_gradient = gradient.sum(dim=0) - b_enc_gradient @ W_enc
        return None, None, W_enc_gradient, b_enc_gradient, W_dec_gradient, b_dec_gradient


def _sums(table: torch.Tensor, rows: torch.Tensor, starts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sums of rows of the table, one for every start; an empty one is 0."""
    return F.embedding_bag(rows, table, starts, per_sample_weights=weights, mode="sum")
