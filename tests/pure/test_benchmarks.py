"""What the benchmarks compare is compared fairly."""

import torch

from benchmarks.one_trainer import ours
from benchmarks.vectors import directions


def test_our_trainer_does_not_begin_with_the_directions_that_the_vectors_are_made_of():
    width = 320
    first = torch.randn(256, width, generator=torch.Generator().manual_seed(3))
    _, sae = ours(width, 1024, 16, "fp32", first)
    assert (sae.W_dec.detach().cpu() @ directions(width).T).abs().max() < 0.5
