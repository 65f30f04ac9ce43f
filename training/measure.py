"""How good an SAE is, on images that it was not trained on."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ..sae_ops.autoencoder import SparseAutoencoder
from ..sae_ops.chosen_latents import ChosenLatents
from .data import LabelledImages


@dataclass(frozen=True)
class Measurement:
    """Everything as at inference."""

    sigmas: torch.Tensor
    """[levels]."""
    fvu: torch.Tensor
    """[levels], each against the variance at its own noise level; below against that over all."""
    l0: torch.Tensor
    """[levels]."""
    overall_fvu: float
    overall_l0: float
    never_fired: int
    """Latents that fired nowhere in these images."""
    accuracy: torch.Tensor
    """[concepts]: how often a concept's logit has the right sign, pictures with and without it weighing the same."""
    separation: torch.Tensor
    """[concepts]: mean logit with the concept minus without, in standard deviations."""
    detected: torch.Tensor
    """[shown concepts, detected concepts]: share of the maps of pictures with one in which the other's logit is > 0."""
    firing: torch.Tensor
    """[shown concepts, concepts]: mean activation of each concept's latents in pictures that show another."""
    mistaken: torch.Tensor
    """As detected, over the pictures that show one without the other; NaN where there are none."""
    stray: torch.Tensor
    """As firing, likewise."""


@torch.no_grad()
def measure(sae: SparseAutoencoder, latents: list[list[int]], images: LabelledImages) -> Measurement:
    """Reads every image once. latents: those that tell each concept of images.labels, as many of each.

    A logit is the mean over positions of the first latent's pre_acts; of the branch "uncond" that of the activations of
    all these latents, summed, less a half.
    """
    levels, place = images.levels()
    device = sae.W_enc.device
    own = torch.tensor(latents, device=device)
    shown = images.labels.float()
    error, active, vectors = (torch.zeros(len(levels)) for _ in range(3))
    total, square = (torch.zeros(len(levels), sae.config.d_in) for _ in range(2))
    fired = torch.zeros(sae.config.n_latents, dtype=torch.bool)
    logits, firings = [], []
    for maps, _ in images:
        for level, m in zip(place.tolist(), maps, strict=True):
            pre_acts = sae.pre_acts(m.to(device))
            z = sae.activate(pre_acts)
            normalised = sae.normalise(m.to(device))
            error[level] += (normalised - z @ sae.W_dec - sae.b_dec).square().sum().cpu()
            total[level] += normalised.sum(dim=0).cpu()
            square[level] += normalised.square().sum(dim=0).cpu()
            vectors[level] += len(m)
            active[level] += (z > 0).sum().cpu()
            fired |= (z > 0).any(dim=0).cpu()
            there = z[:, own].sum(dim=2).mean(dim=0).cpu()
            logits.append(there - 0.5 if images.branch == "uncond" else pre_acts[:, own[:, 0]].mean(dim=0).cpu())
            firings.append(there)
    table, fires = (torch.stack(each).view(len(images), -1, len(latents)) for each in (logits, firings))
    detects, fires = (table > 0).float().mean(dim=1), fires.mean(dim=1)
    pictures, apart = shown.sum(dim=0)[:, None].clamp(min=1), shown.T @ (1 - shown)
    told = [_told_apart(table[shown[:, c] > 0, :, c], table[shown[:, c] == 0, :, c]) for c in range(len(latents))]
    accuracy, separation = zip(*told, strict=True)
    variance = square.sum() - (total.sum(dim=0).square() / vectors.sum()).sum()
    return Measurement(
        sigmas=levels,
        fvu=error / (square - total.square() / vectors[:, None]).sum(dim=1),
        l0=active / vectors,
        overall_fvu=(error.sum() / variance).item(),
        overall_l0=(active.sum() / vectors.sum()).item(),
        never_fired=int((~fired).sum()),
        accuracy=torch.stack(accuracy),
        separation=torch.stack(separation),
        detected=shown.T @ detects / pictures,
        firing=shown.T @ fires / pictures,
        mistaken=shown.T @ ((1 - shown) * detects) / apart,
        stray=shown.T @ ((1 - shown) * fires) / apart,
    )


def _told_apart(with_concept: torch.Tensor, without: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Accuracy and separation by logits of maps that show the concept, and of others."""
    accuracy = ((with_concept > 0).float().mean() + (without <= 0).float().mean()) / 2
    apart = with_concept.mean() - without.mean()
    spread = torch.cat([with_concept.flatten() - with_concept.mean(), without.flatten() - without.mean()])
    return accuracy, apart / spread.square().mean().sqrt().clamp(min=1e-9)


def balanced_accuracy(said: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """How often it is said rightly, maps with a concept and without it weighing the same, mean over the concepts.

    Both bool [maps, concepts]. Concepts that all maps show, or none, are left out; NaN if that is every one.
    """
    hit, spared = (said & shown).sum(dim=0) / shown.sum(dim=0), (~said & ~shown).sum(dim=0) / (~shown).sum(dim=0)
    return ((hit + spared) / 2).nanmean()


@torch.no_grad()
def explained_guidance(
    sae: SparseAutoencoder,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    latents: list[list[int]],
) -> list[float | None]:
    """For every label how much of what its name brings its latents explain, 1 at most.

    None if no map shows it, or it brings nothing.

        1 - |mean of b - E_c|^2 / |mean of b|^2,   b = x - x_0 - sum over other labels l in the prompt: E_l

    with E_c the sum over latents i of c: z_i W_dec[i], z as at inference, and means over maps that show c. batches: x
    and x_0, not yet normalised, [maps, positions, d], and labels 0/1 [maps, labels]. latents: those of each label.
    """
    chosen = [(ChosenLatents(sae, own), sae.W_dec[own]) for own in latents]
    remains: list = [0.0] * len(latents)
    explained: list = [0.0] * len(latents)
    for maps, unprompted, labels in batches:
        left, shows = sae.normalise(maps) - sae.normalise(unprompted), labels.T > 0
        for label, ((encode, decoder), shown) in enumerate(zip(chosen, shows, strict=True)):
            its = encode(maps[shown].mT.contiguous()).mT @ decoder
            left[shown] -= its
            explained[label] = explained[label] + its.sum(dim=0)
        for label, shown in enumerate(shows):
            remains[label] = remains[label] + left[shown].sum(dim=0)
    shares = []
    for rest, its in zip(remains, explained, strict=True):
        brought = (rest + its).square().sum().item()
        shares.append(1 - rest.square().sum().item() / brought if brought else None)
    return shares
