"""Which latent belongs to which concept."""

import torch

from ..sae_ops.autoencoder import SparseAutoencoder
from .data import ConceptMaps


@torch.no_grad()
def latent_means(sae: SparseAutoencoder, data: ConceptMaps) -> torch.Tensor:
    """Latents averaged over positions at every step of every image, [images, steps, n]."""
    return torch.stack([sae.encode(image.float()).mean(dim=1) for image in data.maps])


def concept_scores(means: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """SAeUron's score of every latent for every concept, averaged over steps, [concepts, n].

        s(i, t, c) = mu(i, t, D_c) / sum_j mu(j, t, D_c) - mu(i, t, D_not c) / sum_j mu(j, t, D_not c)

    means [images, steps, n], labels bool [images, concepts]. (SAeUron, arXiv 2501.18052.)
    """
    scores = []
    for concept in labels.T:
        shares = [group / group.sum(dim=-1, keepdim=True).clamp(min=1e-12) for group in
                  (means[concept].mean(dim=0), means[~concept].mean(dim=0))]  # fmt: skip
        scores.append((shares[0] - shares[1]).mean(dim=0))
    return torch.stack(scores)


def assign_latents(scores: torch.Tensor) -> list[int]:
    """Greedy: the highest score of all takes its concept and its latent, and so on; each latent once.

    scores [concepts, n] -> one latent for each concept. Raises ValueError if there are fewer latents than concepts.
    """
    concepts, n = scores.shape
    if n < concepts:
        raise ValueError(f"{concepts} concepts need as many latents, but the SAE has {n}. Choose a larger width.")
    open_scores, chosen = scores.clone(), [0] * concepts
    for _ in range(concepts):
        concept, latent = divmod(int(open_scores.argmax()), n)
        chosen[concept] = latent
        open_scores[concept], open_scores[:, latent] = -torch.inf, -torch.inf
    return chosen
