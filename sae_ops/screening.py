"""Screening: a product in bf16 finds which pre_acts may be among the largest, fp32 decides about those alone.

A dense product is several times as fast in bf16, on GPUs and on processors with AMX. Its error is bounded, so the few
pre_acts that could matter are known for certain, and they are computed again in fp32.
"""

import torch

ROUNDING = 2.0**-8
"""bf16 is within this share of the number it stands for."""


def is_worthwhile(device: torch.device) -> bool:
    """Whether this machine multiplies bf16 matrices much faster than fp32 ones."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return device.type == "cpu" and has_amx is not None and has_amx()


def bf16_error(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """How far x @ weight.T + bias in bf16 may be from the true value, fp32 [vectors].

    x fp32 [vectors, d], weight fp32 [n, d], bias fp32 [n]; largest [vectors]: for values of at most this size. With x'
    and w' for the rounded ones, |x.w - x'.w'| <= |x - x'| |w| + |x'| |w - w'|; sums are fp32, the result is rounded.
    """
    rounded = x.bfloat16().float()
    inputs = (x - rounded).norm(dim=1) + (ROUNDING + x.shape[1] * 2.0**-23) * rounded.norm(dim=1)
    return inputs * weight.norm(dim=1).amax() + 2 * ROUNDING * (largest + bias.abs().amax())


def chosen_dots(x: torch.Tensor, table: torch.Tensor, rows: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """x[v] . table[rows[i]] for every i, v being the vector whose rows begin at starts[v]: [len(rows)].

    x [vectors, d], table [n, d], rows int64, starts int64 [vectors]; all values of one dtype.
    """
    owners = torch.repeat_interleave(torch.diff(starts, append=starts.new_tensor([len(rows)])))
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(x, table, rows, starts, owners, 0)
