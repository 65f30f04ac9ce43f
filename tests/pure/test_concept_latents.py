"""The concepts' latents, read alone, are what the whole autoencoder encodes."""

import pytest
import torch

from pure.random_sae import CONCEPTS, random_sae
from sae_eraser.sae_ops.autoencoder import ACTIVATIONS
from sae_eraser.sae_ops.concept_latents import ConceptLatents
from sae_eraser.sae_ops.largest import ScreenedEncoder

LATENTS = [0, 1, 5, 2, 5, 7]
"""Of the terms of CONCEPTS."""


@pytest.mark.parametrize("shape", [(2, 12, 5, 7), (1, 12, 9, 1), (1, 12, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_they_are_those_of_the_whole_encoder(activation, shape):
    sae, x = random_sae(activation), torch.randn(shape, generator=torch.Generator().manual_seed(3))
    z = ConceptLatents(sae, CONCEPTS)(x)
    assert z.shape == (shape[0], len(LATENTS), *shape[2:]) and z.dtype == torch.float32
    expected = sae.encode(x.movedim(1, -1))[..., LATENTS].movedim(-1, 1)
    assert 0.1 < (expected > 0).float().mean() < 0.9
    torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-5)


def test_topk_in_parts_with_an_encoder_kept_elsewhere(monkeypatch):
    monkeypatch.setattr("sae_eraser.sae_ops.concept_latents.VECTORS_AT_ONCE", 4)
    sae, x = random_sae("topk"), torch.randn(2, 12, 5, 7, generator=torch.Generator().manual_seed(4))
    encoder = ScreenedEncoder(sae.W_enc, sae.b_enc, torch.device("cpu"), screens=True)
    z = ConceptLatents(sae, CONCEPTS, encoder)(x)
    torch.testing.assert_close(z, sae.encode(x.movedim(1, -1))[..., LATENTS].movedim(-1, 1), rtol=1e-4, atol=1e-5)


def test_half_precision_is_read_in_full():
    sae, x = random_sae("relu"), torch.randn(1, 12, 4, 4, generator=torch.Generator().manual_seed(5)).half()
    torch.testing.assert_close(ConceptLatents(sae, CONCEPTS)(x), ConceptLatents(sae, CONCEPTS)(x.float()))
