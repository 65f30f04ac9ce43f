"""Matrix products in bf16, where they are fast and as exact as they can be."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

VECTORS_PER_BLOCK = 256
"""Products of so many stay in a processor's cache until they are used."""

Linear = Callable[[torch.Tensor], torch.Tensor]
"""x [vectors, d] -> x @ weight.T + bias, [vectors, n]."""


def is_fast_at_bf16(device: torch.device) -> bool:
    """Whether this machine multiplies bf16 matrices much faster than fp32 ones: those that cannot take far longer."""
    if device.type == "cuda":
        emulates = torch.version.cuda is not None and torch.cuda.get_device_capability(device) < (8, 0)
        return torch.cuda.is_bf16_supported() and not emulates
    known = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16"))
    return device.type == "cpu" and any(supported is not None and supported() for supported in known)


def bf16_linear(weight: torch.Tensor, bias: torch.Tensor) -> Linear:
    """The product with these weights for vectors in bf16, laid out for a processor that is fast at it.

    weight [n, d] and bias [n], of any dtype.
    """
    weight, bias = weight.detach().bfloat16(), bias.detach().bfloat16()
    library = torch.ops.mkldnn
    if weight.device.type == "cpu" and is_fast_at_bf16(weight.device) and hasattr(library, "_linear_pointwise"):
        packed = library._reorder_linear_weight(weight, VECTORS_PER_BLOCK)
        return lambda x: library._linear_pointwise(x, packed, bias, "none", [], "")
    return partial(F.linear, weight=weight, bias=bias)


def with_fp32_sums(linear: Linear) -> Linear:
    """This product without sums in bf16, which torch otherwise allows GPUs where they split a product."""

    def product(x: torch.Tensor) -> torch.Tensor:
        settings = torch.backends.cuda.matmul
        before = settings.allow_bf16_reduced_precision_reduction
        settings.allow_bf16_reduced_precision_reduction = False
        try:
            return linear(x)
        finally:
            settings.allow_bf16_reduced_precision_reduction = before

    return product
