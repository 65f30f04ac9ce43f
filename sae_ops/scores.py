"""How much of a concept was met while sampling, and where, from its latents' activations at every step.

Activations are z [steps, images, terms, positions...] as Watch reads them, at noise levels sigmas [steps].
"""

import torch

from .concepts import Concept, ConceptStatistics, detecting_terms


def concept_scores(
    z: torch.Tensor, sigmas: torch.Tensor, concepts: tuple[Concept, ...], statistics: ConceptStatistics
) -> torch.Tensor:
    """Scores [images, concepts]: about 1 in pictures that show the concept, about 0 in those that do not.

        score_c = sum over steps of (mean of z - mu(sigma, D_not c))
                  / sum over steps of (mu(sigma, D_c) - mu(sigma, D_not c))

    with means over positions and sums over the latents that detect the concept. NaN if these fire no more in pictures
    that show it than in others: these statistics cannot tell it apart.
    """
    means = statistics.at(sigmas, torch.arange(z.shape[2]))
    found = (z.flatten(3).mean(dim=3) - means["background"][:, None]).sum(dim=0)  # [images, terms]
    usual = (means["with_concept"] - means["background"]).sum(dim=0)
    scores = []
    for terms in map(list, detecting_terms(concepts)):
        difference = usual[terms].sum()
        scores.append(found[:, terms].sum(dim=1) / torch.where(difference > 0, difference, torch.nan))
    return torch.stack(scores, dim=1) if scores else found.new_zeros(len(found), 0)


def fired(z: torch.Tensor, sigmas: torch.Tensor, terms: range, statistics: ConceptStatistics) -> torch.Tensor:
    """Where one of these terms exceeds its mean over all pictures, the gate of the edit.

    bool [steps, images, positions...].
    """
    gate = statistics.at(sigmas, torch.tensor(terms))["overall"].clamp(min=0)  # [steps, terms]
    return (z[:, :, list(terms)].movedim(2, -1) > _over_maps(gate, z)).any(dim=-1)


def relative(
    z: torch.Tensor, sigmas: torch.Tensor, terms: range, statistics: ConceptStatistics
) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations of these terms in units of their mean over all steps in pictures that show the concept.

    [steps, images, positions...], and what is usual in such pictures [steps], whose mean is 1.
    """
    usual = statistics.at(sigmas, torch.tensor(terms))["with_concept"].sum(dim=1)
    unit = usual.mean().clamp(min=1e-12)
    return z[:, :, list(terms)].sum(dim=2) / unit, usual / unit


def _over_maps(values: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """[steps, terms] -> [steps, 1, 1..., terms], for z with its terms at the end."""
    return values.reshape(len(values), *[1] * (z.dim() - 2), -1)
