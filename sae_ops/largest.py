"""The largest latents of vectors, at the cost of one dense product and without ever holding all pre_acts.

A dense product is several times as fast in bf16, on GPUs and on processors with AMX or AVX512-BF16. Its error is
bounded, so it tells for certain which few pre_acts may be among the largest; these are computed again in fp32, which
decides.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from .bf16 import VECTORS_PER_BLOCK, Linear, bf16_linear, is_fast_at_bf16, with_fp32_sums
from .largest_of_rows import COLUMNS_PER_GROUP, group_maxima, kth_largest, largest_of_rows

MOST_GROUPS = 8
"""A vector that needs more groups than this for each latent that is kept is left to the dense product in fp32."""
ROUNDING = 2.0**-8
"""bf16 is within this share of the number it stands for."""


def largest(x: torch.Tensor, linear: Linear, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest of linear(x) for every vector, in no order: values and latents [vectors, count]."""
    chosen = [largest_of_rows(linear(block), count) for block in _blocks(x)]
    values, latents = zip(*chosen, strict=True)
    return torch.cat(values), torch.cat(latents)


class ScreenedEncoder(nn.Module):
    """An encoder's weights, ready to find the largest pre_acts in fp32; screened in bf16 where that is faster."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, device: torch.device, screens: bool | None = None):
        """weight fp32 [n, d], bias fp32 [n]. device: where the vectors will be; the weights may lie elsewhere.

        screens: None is as is_fast_at_bf16(device) says.
        """
        super().__init__()
        weight, bias = weight.detach(), bias.detach()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.screens = is_fast_at_bf16(device) if screens is None else screens
        rough = weight.bfloat16() if self.screens else weight
        on_cpu = device.type == "cpu"
        self.rough_weight = nn.Parameter(rough, requires_grad=False) if self.screens and not on_cpu else None
        self._packed = bf16_linear(rough, bias) if self.screens and on_cpu else None
        if self.screens:
            rounded_by = [(rows - rows.bfloat16()).norm(dim=1).amax() for rows in _blocks(weight)]
            self._longest, self._rounded_by = weight.norm(dim=1).amax(), torch.stack(rounded_by).amax()
            self._largest_bias = bias.abs().amax()

    def largest(self, x: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As largest(), of vectors fp32 [vectors, d]. The weights may lie on another device than x."""
        if not self._can_screen(count):
            return largest(x, self._linear(x.device), count)
        rough, candidates = largest(x.bfloat16(), self._rough_linear(x.device), 2 * count)
        starts = torch.arange(0, candidates.numel(), 2 * count, device=x.device)
        values, places = self._dots(x, candidates.flatten(), starts).view_as(rough).topk(count, dim=1, sorted=False)
        latents = candidates.gather(1, places)
        left_out = rough.amin(dim=1).float()
        certain = values.amin(dim=1) > left_out + self.error(x, left_out.abs())
        unsure = (~certain).nonzero()[:, 0]
        if len(unsure):
            values[unsure], latents[unsure] = largest(x[unsure], self._linear(x.device), count)
        return values, latents

    def are_largest(self, x: torch.Tensor, latents: torch.Tensor, z: torch.Tensor, count: int) -> torch.Tensor:
        """Which of these latents are positive and exceeded by fewer than `count` others, bool [vectors, m].

        x fp32 [vectors, d], latents int64 [m], their ReLU(pre_acts) fp32 [vectors, m]. Needs no order among the
        largest, so it looks only at latents that may exceed one of these.
        """
        if not self._can_screen(count):
            return self._are_largest_in_fp32(x, latents, z, count)
        error = self.error(x, 0)
        blocks = zip(*map(_blocks, (x.bfloat16(), z, error)), strict=True)
        found = [self._rivals(vectors, own, bound, count) for vectors, own, bound in blocks]
        asked, crowded, counts, rivals, values = map(torch.cat, zip(*found, strict=True))
        owners = torch.repeat_interleave(counts)
        columns = latents.new_full((len(self.weight),), -1)
        columns[latents] = torch.arange(len(latents), device=x.device)
        columns = columns[rivals]
        known = columns >= 0
        values = torch.where(known, z[owners, columns], values)

        table = values.new_zeros(len(x), max(count, int(counts.max())))
        listed = torch.arange(table.shape[1], device=x.device) < counts[:, None]
        low, high = _bounds(kth_largest(table.masked_scatter_(listed, values), count), error)
        unsure = (asked & (z >= low[:, None]) & (z <= high[:, None])).any(dim=1)
        lowest, highest = _bounds(values, error[owners])
        near = (highest >= low[owners]) & (lowest <= high[owners])  # those that decide which is the count-th largest
        again = (near & ~known & unsure[owners]).nonzero()[:, 0]
        computed = torch.bincount(owners[again], minlength=len(x))
        values[again] = self._dots(x, rivals[again], computed.cumsum(0) - computed)
        kept = asked & (z >= kth_largest(table.masked_scatter_(listed, values), count)[:, None])
        if crowded.any():
            kept[crowded] = self._are_largest_in_fp32(x[crowded], latents, z[crowded], count)
        return kept

    def error(self, x: torch.Tensor, size: torch.Tensor | float) -> torch.Tensor:
        """How far pre_acts in bf16 may be from the true ones, fp32 [vectors], if these are no larger than `size`.

        x fp32 [vectors, d], size [vectors]. With x' and w' for the rounded ones,
        |x.w - x'.w'| <= |x - x'| |w| + |x'| |w - w'|; sums are fp32, and the result is rounded.
        """
        rounded = x.bfloat16()
        length = rounded.norm(dim=1, dtype=torch.float32)
        products = (x - rounded).norm(dim=1) * self._longest + length * self._rounded_by
        sums = x.shape[1] * 2.0**-23 * length * self._longest
        return products + sums + 2 * ROUNDING * (size + self._largest_bias)

    def _rivals(self, x: torch.Tensor, z: torch.Tensor, error: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
        """All latents that may exceed one of these, for vectors in bf16 and the errors of their products [vectors].

        Returns which latents may be among the largest at all [vectors, m], which vectors have too many rivals to list
        [vectors], how many the others have [vectors], and these rivals, vector by vector, with their pre_acts in bf16.
        """
        rough = self._rough_linear(x.device)(x).view(torch.int16)  # ordered as the numbers are, if not negative
        groups = group_maxima(rough)
        coarse = groups if groups.shape[1] >= 4 * count else rough
        while coarse.shape[1] % COLUMNS_PER_GROUP == 0 and coarse.shape[1] >= 4 * count * COLUMNS_PER_GROUP:
            coarse = group_maxima(coarse)
        reached = kth_largest(coarse, count)  # by at least `count` latents
        bound, _ = _bounds(reached.view(torch.bfloat16).float(), error)
        asked = (z > 0) & (z >= bound[:, None])
        least, _ = _bounds(z.masked_fill(~asked, torch.inf).amin(dim=1), error)
        least = (least.view(torch.int32) >> 16).short()  # the bits of bf16, rounded down

        owners, places = (groups >= least[:, None]).nonzero(as_tuple=True)
        crowded = (least < 0) | (torch.bincount(owners, minlength=len(x)) > MOST_GROUPS * count)
        if crowded.any():
            few = ~crowded[owners]
            owners, places = owners[few], places[few]
        members = places[:, None] + torch.arange(0, rough.shape[1], groups.shape[1], device=x.device)
        values = rough.take(owners[:, None] * rough.shape[1] + members)
        which = (values >= least[owners][:, None]).nonzero(as_tuple=True)
        counts = torch.bincount(owners[which[0]], minlength=len(x))
        return asked, crowded, counts, members[which], values[which].view(torch.bfloat16).float()

    def _are_largest_in_fp32(self, x: torch.Tensor, latents: torch.Tensor, z: torch.Tensor, count: int) -> torch.Tensor:
        linear, kept = self._linear(x.device), []
        for vectors, own in zip(_blocks(x), _blocks(z), strict=True):
            pre_acts = linear(vectors).index_copy_(1, latents, own)
            on_cpu = x.device.type == "cpu"  # a GPU has fewer kernels to start for topk alone
            least = largest_of_rows(pre_acts, count)[0].amin(dim=1) if on_cpu else kth_largest(pre_acts, count)
            kept.append((own > 0) & (own >= least[:, None]))
        return torch.cat(kept)

    def _can_screen(self, count: int) -> bool:
        return self.screens and 2 * count < len(self.weight)

    def _linear(self, device: torch.device) -> Linear:
        return partial(F.linear, weight=self.weight.to(device), bias=self.bias.to(device))

    def _rough_linear(self, device: torch.device) -> Linear:
        if self._packed and device.type == "cpu":
            return self._packed
        rough = self.weight if self.rough_weight is None else self.rough_weight
        return with_fp32_sums(bf16_linear(rough.to(device), self.bias.to(device)))

    def _dots(self, x: torch.Tensor, latents: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """pre_acts of chosen latents in fp32, as in chosen_dots."""
        return chosen_dots(x, self.weight.to(x.device), latents, starts) + self.bias.to(x.device)[latents]


def chosen_dots(x: torch.Tensor, table: torch.Tensor, rows: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """x[v] . table[rows[i]] for every i, v being the vector whose rows begin at starts[v]: [len(rows)].

    x [vectors, d], table [n, d], rows int64, starts int64 [vectors]; all values of one dtype.
    """
    owners = vector_of_each(starts, len(rows))
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(x, table, rows, starts, owners, 0)


def vector_of_each(starts: torch.Tensor, count: int) -> torch.Tensor:
    """For each of 0..count - 1 the last of these starts that is not above it, int64 [count]; the first start is 0.

    A GPU is not waited for.
    """
    sizes = torch.diff(starts, append=starts.new_full((1,), count))
    return torch.repeat_interleave(sizes, output_size=count)


def _blocks(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return x.split(VECTORS_PER_BLOCK) if x.device.type == "cpu" else (x,)


def _bounds(values: torch.Tensor, error: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The lowest and the highest that true values can be, given those in bf16, or the other way round.

    error: of a size of 0.
    """
    return values * (1 - 2 * ROUNDING) - error, values * (1 + 2 * ROUNDING) + error
