"""TopK at the size of SD1.5: the exact edit moves activations as the dense way does."""

import torch
import torch.nn.functional as F

from sae_eraser.sae_ops.autoencoder import SAEConfig, SparseAutoencoder
from sae_eraser.sae_ops.concepts import Concept, ConceptStatistics
from sae_eraser.sae_ops.edit import ConceptEdit
from sae_eraser.sae_ops.erasure import Erasure

D, N, K, CONCEPTS = 1280, 20480, 32, 10


def test_the_exact_edit_is_that_of_two_dense_decodes():
    generator = torch.Generator().manual_seed(0)
    sae = SparseAutoencoder(SAEConfig(D, N, "topk", K)).requires_grad_(False)
    sae.W_dec.copy_(F.normalize(torch.randn(N, D, generator=generator), dim=1))
    sae.W_enc.copy_(sae.W_dec)
    x = torch.randn(2, D, 6, 8, generator=generator)
    vectors = x.flatten(2).movedim(1, 2).flatten(0, 1)
    z = sae.encode(vectors)
    latents = (z > 0).sum(dim=0).topk(CONCEPTS).indices
    concepts = tuple(Concept(str(latent), "", (latent,)) for latent in latents.tolist())
    level = torch.ones(1, CONCEPTS)
    statistics = ConceptStatistics(torch.ones(1), level, 0 * level, 0 * level)
    erasures = tuple(Erasure(index, mode="scale") for index in range(CONCEPTS))
    edited = ConceptEdit(sae, concepts, statistics, erasures)(x, torch.ones(2), torch.tensor([True, False]))

    turned = z.index_copy(1, latents, -z[:, latents])
    dense = (sae.decode(turned) - sae.decode(z)).unflatten(0, (2, -1)).movedim(2, 1).reshape(x.shape)
    assert dense.norm() > 1
    assert (edited - x - dense).norm() < 1e-3 * dense.norm()
    assert torch.equal((edited != x).any(dim=1), (dense != 0).any(dim=1))
