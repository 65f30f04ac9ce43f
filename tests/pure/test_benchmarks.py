"""What the benchmarks compare is compared fairly."""

import pytest
import torch

from benchmarks.device import DEVICE
from benchmarks.one_trainer import OWN_SEED, TRAINERS
from benchmarks.train_speed import OURS
from benchmarks.vectors import SEED, directions
from sae_eraser.sae_ops.autoencoder import SAEConfig
from sae_eraser.training.learner import new_autoencoder


def test_our_trainer_does_not_begin_with_the_directions_that_the_vectors_are_made_of():
    width = 320
    first = torch.randn(256, width, generator=torch.Generator().manual_seed(3))
    sae = new_autoencoder(SAEConfig(width, 1024, "topk", 16), first, OWN_SEED)
    theirs = directions(width, torch.Generator().manual_seed(SEED))
    assert (sae.W_dec.detach() @ theirs.T).abs().max() < 0.5


@pytest.mark.parametrize("trainer", OURS)
def test_the_vectors_that_ours_reconstructs_are_compared_with_what_they_were(trainer):
    x = 3 + 2 * torch.randn(512, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        _, reconstruct = TRAINERS[trainer](16, 64, 16, "fp32", x.to(DEVICE))
        rest = reconstruct(x.to(DEVICE)).cpu() - x
    assert rest.square().mean() < 0.5 * x.var()
