"""The largest latents of vectors, at the cost of one dense product and without ever holding all pre_acts.

A dense product is several times as fast in bf16, on GPUs and on processors with AMX. Its error is bounded, so it tells
for certain which few pre_acts may be among the largest; these are computed again in fp32, which decides.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

VECTORS_PER_BLOCK = 256
"""On the CPU their pre_acts stay in the cache until the largest are chosen."""
LATENTS_PER_GROUP = 8
ROUNDING = 2.0**-8
"""bf16 is within this share of the number it stands for."""


Linear = Callable[[torch.Tensor], torch.Tensor]
"""x [vectors, d] -> x @ weight.T + bias, [vectors, n]."""


def largest(x: torch.Tensor, linear: Linear, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest of linear(x) for every vector, in no order: values and latents [vectors, count]."""
    blocks = x.split(VECTORS_PER_BLOCK) if x.device.type == "cpu" else [x]
    chosen = [_largest_of_rows(linear(block), count) for block in blocks]
    values, latents = zip(*chosen, strict=True)
    return torch.cat(values), torch.cat(latents)


def bf16_linear(weight: torch.Tensor, bias: torch.Tensor) -> Linear:
    """For vectors in bf16; weight [n, d] and bias [n] of any dtype. A processor with AMX gets them laid out once."""
    weight, bias = weight.detach().bfloat16(), bias.detach().bfloat16()
    library = torch.ops.mkldnn
    if weight.device.type == "cpu" and is_worthwhile(weight.device) and hasattr(library, "_linear_pointwise"):
        packed = library._reorder_linear_weight(weight, VECTORS_PER_BLOCK)
        return lambda x: library._linear_pointwise(x, packed, bias, "none", [], "")
    return partial(F.linear, weight=weight, bias=bias)


class ScreenedEncoder(nn.Module):
    """An encoder's weights, ready to find the largest pre_acts in fp32; screened in bf16 where that is faster."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, device: torch.device, screens: bool | None = None):
        """weight fp32 [n, d], bias fp32 [n]. device: where the vectors will be; the weights may lie elsewhere.

        screens: None is as is_worthwhile(device) says.
        """
        super().__init__()
        weight, bias = weight.detach(), bias.detach()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.screens = is_worthwhile(device) if screens is None else screens
        rough = weight.bfloat16() if self.screens else weight
        on_cpu = device.type == "cpu"
        self.rough_weight = nn.Parameter(rough, requires_grad=False) if self.screens and not on_cpu else None
        self._packed = bf16_linear(rough, bias) if self.screens and on_cpu else None
        self._longest = weight.norm(dim=1).amax().item()
        in_cache = weight.split(VECTORS_PER_BLOCK) if self.screens else []
        self._rounded_by = max(((rows - rows.bfloat16()).norm(dim=1).amax().item() for rows in in_cache), default=0.0)
        self._largest_bias = bias.abs().amax().item()

    def largest(self, x: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As largest(), of vectors fp32 [vectors, d]. The weights may lie on another device than x."""
        if not self.screens or 2 * count >= len(self.weight):
            return largest(x, self._linear(x.device), count)
        rough, candidates = self._screen(x, count)
        return self._decide(x, rough, candidates, torch.ones_like(rough, dtype=torch.bool), count)

    def are_largest(self, x: torch.Tensor, latents: torch.Tensor, pre_acts: torch.Tensor, count: int) -> torch.Tensor:
        """Which of these latents are among the `count` largest of each vector, bool [vectors, m].

        x fp32 [vectors, d], latents int64 [m], their pre_acts fp32 [vectors, m].
        """
        if not self.screens or 2 * count >= len(self.weight):
            _, chosen = self.largest(x, count)
            return (chosen[:, :, None] == latents).any(dim=1)
        rough, candidates = self._screen(x, count)
        smallest = rough.topk(count, dim=1).values[:, -1:].float()
        above, error = pre_acts - smallest, self.error(x, smallest[:, 0].abs())[:, None]
        found = above > error
        unsure = (above.abs() <= error).any(dim=1).nonzero()[:, 0]
        if len(unsure):
            rough, error = rough[unsure], error[unsure]
            close = (rough - smallest[unsure]).abs() <= 2 * error  # the others are in or out, whatever their error
            _, chosen = self._decide(x[unsure], rough, candidates[unsure], close, count)
            found[unsure] = (chosen[:, :, None] == latents).any(dim=1)
        return found

    def _screen(self, x: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The 2 * count largest in bf16: values and latents."""
        if self.rough_weight is None:
            assert self._packed
            return largest(x.bfloat16(), self._packed, 2 * count)
        return largest(x.bfloat16(), bf16_linear(self.rough_weight.to(x.device), self.bias.to(x.device)), 2 * count)

    def _linear(self, device: torch.device) -> Linear:
        return partial(F.linear, weight=self.weight.to(device), bias=self.bias.to(device))

    def _decide(
        self, x: torch.Tensor, rough: torch.Tensor, candidates: torch.Tensor, again: torch.Tensor, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The largest of the candidates, those marked in `again` computed in fp32.

        Of all latents, in fp32, for vectors whose candidates may lack one.
        """
        weight, bias = self.weight.to(x.device), self.bias.to(x.device)
        chosen, counts = candidates[again], again.sum(dim=1)
        exact = rough.float()
        exact[again] = chosen_dots(x, weight, chosen, counts.cumsum(0) - counts) + bias[chosen]
        values, places = exact.topk(count, dim=1, sorted=False)
        latents = candidates.gather(1, places)
        left_out = rough.amin(dim=1).float()
        certain = values.amin(dim=1) > left_out + self.error(x, left_out.abs())
        unsure = (~certain).nonzero()[:, 0]
        if len(unsure):
            values[unsure], latents[unsure] = largest(x[unsure], self._linear(x.device), count)
        return values, latents

    def error(self, x: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        """How far pre_acts in bf16 may be from the true ones, fp32 [vectors], if these are no larger than `size`.

        x fp32 [vectors, d], size [vectors]. With x' and w' for the rounded ones,
        |x.w - x'.w'| <= |x - x'| |w| + |x'| |w - w'|; sums are fp32, and the result is rounded.
        """
        rounded = x.bfloat16().float()
        length = rounded.norm(dim=1)
        products = (x - rounded).norm(dim=1) * self._longest + length * self._rounded_by
        sums = x.shape[1] * 2.0**-23 * length * self._longest
        return products + sums + 2 * ROUNDING * (size + self._largest_bias)


def is_worthwhile(device: torch.device) -> bool:
    """Whether this machine multiplies bf16 matrices much faster than fp32 ones, so that screening saves time."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return device.type == "cpu" and has_amx is not None and has_amx()


def chosen_dots(x: torch.Tensor, table: torch.Tensor, rows: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """x[v] . table[rows[i]] for every i, v being the vector whose rows begin at starts[v]: [len(rows)].

    x [vectors, d], table [n, d], rows int64, starts int64 [vectors]; all values of one dtype.
    """
    owners = torch.repeat_interleave(torch.diff(starts, append=starts.new_tensor([len(rows)])))
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(x, table, rows, starts, owners, 0)


def _largest_of_rows(rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """topk that first finds the groups: the `count` largest lie in the `count` groups with the largest maxima."""
    groups, rest = divmod(rows.shape[1], LATENTS_PER_GROUP)
    if rest or groups < 2 * count:
        values, latents = rows.topk(count, dim=1, sorted=False)
        return values, latents
    _, best = _largest_of_rows(rows.unflatten(1, (LATENTS_PER_GROUP, groups)).amax(dim=1), count)
    members = (best[:, None] + groups * torch.arange(LATENTS_PER_GROUP, device=rows.device)[:, None]).flatten(1)
    values, places = rows.gather(1, members).topk(count, dim=1, sorted=False)
    return values, members.gather(1, places)
