"""Latents that are read alone are what the whole autoencoder encodes."""

import pytest
import torch

from pure.random_sae import random_sae
from sae_eraser.sae_ops.autoencoder import ACTIVATIONS
from sae_eraser.sae_ops.chosen_latents import ChosenLatents
from sae_eraser.sae_ops.largest import ScreenedEncoder

LATENTS = [0, 1, 5, 2, 5, 7]
"""One of them twice, as concepts may share latents."""


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_they_are_those_of_the_whole_encoder(activation):
    sae, x = random_sae(activation), torch.randn(2, 12, 35, generator=torch.Generator().manual_seed(3))
    z = ChosenLatents(sae, LATENTS)(x)
    assert z.shape == (2, len(LATENTS), 35) and z.dtype == torch.float32
    expected = sae.encode(x.movedim(1, -1))[..., LATENTS].movedim(-1, 1)
    assert 0.1 < (expected > 0).float().mean() < 0.9
    torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_is_not_taken_for_a_latent_that_does_not_fire(activation):
    sae, x = random_sae(activation), torch.randn(2, 12, 35, generator=torch.Generator().manual_seed(3))
    x[1, 4, 7] = torch.nan
    unknown = torch.zeros(2, len(LATENTS), 35, dtype=torch.bool)
    unknown[1, :, 7] = True
    assert torch.equal(ChosenLatents(sae, LATENTS)(x).isnan(), unknown)


def test_topk_in_parts_with_an_encoder_kept_elsewhere(monkeypatch):
    monkeypatch.setattr("sae_eraser.sae_ops.chosen_latents.VECTORS_AT_ONCE", 4)
    sae, x = random_sae("topk"), torch.randn(2, 12, 35, generator=torch.Generator().manual_seed(4))
    encoder = ScreenedEncoder(sae.W_enc, sae.b_enc, torch.device("cpu"), screens=True)
    z = ChosenLatents(sae, LATENTS, encoder)(x)
    torch.testing.assert_close(z, sae.encode(x.movedim(1, -1))[..., LATENTS].movedim(-1, 1), rtol=1e-4, atol=1e-5)
