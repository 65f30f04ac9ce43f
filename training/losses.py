"""Losses of both training phases."""

import torch
import torch.nn.functional as F

from ..sae_ops.autoencoder import SparseAutoencoder


def fvu(x: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    """Fraction of variance unexplained: sum|x - x^|^2 / sum|x - mean x|^2 over a batch [vectors, d]."""
    return (x - reconstruction).square().sum() / (x - x.mean(dim=0)).square().sum()


def auxiliary_loss(
    sae: SparseAutoencoder, x: torch.Tensor, reconstruction: torch.Tensor, pre_acts: torch.Tensor, dead: torch.Tensor
) -> torch.Tensor:
    """AuxK: the d/2 largest dead latents learn to explain what the living ones leave over.

    x and reconstruction [vectors, d] normalised, pre_acts [vectors, n], dead bool [n]. The residual x - x^ is detached
    and the auxiliary reconstruction has no b_dec; scaled by min(dead / k_aux, 1). (Gao et al., arXiv 2406.04093.)
    """
    k_aux = min(x.shape[1] // 2, int(dead.sum()))
    if k_aux == 0:
        return x.new_zeros(())
    residual = (x - reconstruction).detach()
    values, indices = pre_acts.masked_fill(~dead, -torch.inf).topk(k_aux, dim=1, sorted=False)
    explained = torch.zeros_like(pre_acts).scatter_(1, indices, values.relu()) @ sae.W_dec
    scale = min(k_aux / (x.shape[1] // 2), 1.0)
    return scale * (residual - explained).square().sum() / residual.square().sum().clamp(min=1e-12)


def concept_loss(logits: torch.Tensor, labels: torch.Tensor, positive_weight: torch.Tensor) -> torch.Tensor:
    """BCE on true logits [maps, concepts] (pre_acts averaged over positions, no ReLU) against labels 0/1.

    positive_weight [concepts] balances the classes. (SAEmnesia, arXiv 2509.21379, without its ReLU.)
    """
    return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=positive_weight)


def decorrelation_loss(logits: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Mean squared Pearson correlation over a batch between concepts of different groups.

    logits [maps, concepts], groups int [concepts]. (SAEmnesia, arXiv 2509.21379.)
    """
    centred = logits - logits.mean(dim=0)
    normed = centred / centred.norm(dim=0).clamp(min=1e-6)
    squared = (normed.T @ normed).square()
    other = groups[:, None] != groups[None, :]
    return squared[other].mean() if other.any() else logits.new_zeros(())
