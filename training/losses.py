"""Losses of both training phases."""

import torch
import torch.nn.functional as F

from ..sae_ops.autoencoder import SparseAutoencoder


def fvu(x: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    """Fraction of variance unexplained: sum|x - x^|^2 / sum|x - mean x|^2 over a batch [vectors, d]."""
    return (x - reconstruction).square().sum() / (x - x.mean(dim=0)).square().sum()


def auxiliary_loss(sae: SparseAutoencoder, x: torch.Tensor, residual: torch.Tensor, dead: torch.Tensor) -> torch.Tensor:
    """AuxK: the d/2 largest dead latents learn to explain what the living ones leave over.

    x fp32 [vectors, d] normalised, residual x - x^ of the same shape, detached; dead bool [n]. Summed over vectors and
    not yet divided by the residual's square. No b_dec; scaled by min(dead / k_aux, 1). (Gao et al., arXiv 2406.04093.)
    """
    half = x.shape[1] // 2
    rows = dead.nonzero()[:, 0]
    k_aux = min(half, len(rows))
    if k_aux == 0:
        return x.new_zeros(())
    pre_acts = F.linear(x - sae.b_dec, sae.W_enc[rows], sae.b_enc[rows])
    values, indices = pre_acts.topk(k_aux, dim=1, sorted=False)
    explained = torch.zeros_like(pre_acts).scatter_(1, indices, values.relu()) @ sae.W_dec[rows]
    return min(k_aux / half, 1.0) * (residual - explained).square().sum()


def concept_loss(logits: torch.Tensor, labels: torch.Tensor, positive_weight: torch.Tensor) -> torch.Tensor:
    """BCE on true logits [maps, concepts] (pre_acts averaged over positions, no ReLU) against labels 0/1.

    positive_weight [concepts] balances the classes. (SAEmnesia, arXiv 2509.21379, without its ReLU.)
    """
    return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=positive_weight)


def decorrelation_loss(logits: torch.Tensor, groups: torch.Tensor, similarity: torch.Tensor) -> torch.Tensor:
    """Keeps concepts from firing together over a batch: logits [maps, concepts], groups int [concepts].

    Between groups the mean squared Pearson correlation (SAEmnesia, arXiv 2509.21379). Inside a group the same of
    positive correlations, weighted by similarity [concepts, concepts] in 0..1: look-alikes are told apart, and two
    concepts that exclude each other may say so.
    """
    centred = logits - logits.mean(dim=0)
    normed = centred / centred.norm(dim=0).clamp(min=1e-6)
    correlation = normed.T @ normed
    other = groups[:, None] != groups[None, :]
    alike = (~other & ~torch.eye(len(groups), dtype=torch.bool, device=groups.device)) * similarity
    between = correlation.square()[other].mean() if other.any() else logits.new_zeros(())
    inside = (alike * correlation.relu().square()).sum() / alike.sum().clamp(min=1e-6)
    return between + inside


def silence_loss(firing: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How much latents fire, averaged over positions, in maps that do not show their concept; [maps, concepts] each.

    The mean logit of a map can be negative while the latent fires at some positions. There erasing would change
    pictures of other concepts, so there it shall be silent.
    """
    without = 1 - labels
    return (firing * without).sum() / without.sum().clamp(min=1)


def presence_loss(present: torch.Tensor, labels: torch.Tensor, positive_weight: torch.Tensor) -> torch.Tensor:
    """Squared error of how much of a concept is there against 1 where a picture shows it and 0 elsewhere; 1 if nothing
    were found anywhere.

    present [maps, concepts], labels 0/1 likewise; positive_weight [concepts] balances them.
    """
    weight = 1 + (positive_weight - 1) * labels
    return ((present - labels).square() * weight).sum() / (labels * weight).sum().clamp(min=1)


def guidance_loss(
    sae: SparseAutoencoder, x: torch.Tensor, difference: torch.Tensor, carriers: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """How much of what a prompt brings its concepts' latents do not explain:

        |x - x_0 - sum over concepts c in the prompt, over their latents i: z_i W_dec[i]|^2

    x and x_0 are the two halves of guidance at the same noisy picture, with the prompt and without; difference is
    x - x_0, both [maps, positions, d], normalised. carriers: (label, latent) for every such i, int [pairs, 2]; labels
    0/1 [maps, labels]: all that the prompts name. So latents that are turned take away what the concept's name has
    brought, and what other words bring stays. Not yet divided by the square of the difference.
    """
    label, latent = carriers.T
    return (difference - (activations(sae, x, latent) * labels[:, None, label]) @ sae.W_dec[latent]).square().sum()


def activations(sae: SparseAutoencoder, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """z of these latents alone, int [latents], above the threshold: x [..., d] normalised -> [..., latents]."""
    z = F.linear(x - sae.b_dec, sae.W_enc[latents], sae.b_enc[latents]).relu()
    return z * (z > sae.threshold.expand(sae.config.n_latents)[latents])
