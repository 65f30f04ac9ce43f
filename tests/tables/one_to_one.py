"""Is a concept one latent? How much of what activations tell about it goes when that latent alone is ablated.

What they tell is what a linear probe reads: one for every concept and noise level, fitted to the activations of one
half of the cached pictures, averaged over positions, and asked on the other half. It knows nothing of any SAE, so that
the same probe judges all of them. Its evidence is the difference of its mean logits between pictures with the concept
and without. Ablating latents takes z_i W_dec[i] away from every position, the probe stays as it was, and

    share = 1 - evidence with these latents ablated / evidence

which is a sum over latents; what is missing at "every latent" is in what the SAE does not reconstruct. (The AUC would
not do: with so clear a concept it stays 1 until nearly all evidence is gone.) The others are chosen against the
concept's own latent: the k with the largest shares of all on the first half.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch
import torch.nn.functional as F

from sae_eraser.sae_ops.autoencoder import SparseAutoencoder
from sae_eraser.training.assign import latent_scores
from sae_eraser.training.cache.reader import Cache
from sae_eraser.training.data import choose_images

from .markdown import over_seeds
from .saes import GROUPS, HOOKPOINTS, LoadedSAE, Workplace, means_of_all_latents

OTHERS = (1, 3, 8)
DECAY = 1e-3


@dataclass(frozen=True)
class Read:
    """What is in the cache, averaged over positions; every [levels, images, ...]."""

    x: torch.Tensor
    """[levels, images, d], as the SAEs normalise it."""
    z: dict[str, torch.Tensor]
    """Of each SAE [levels, images, latents]."""
    labels: torch.Tensor
    """bool [images, concepts]."""
    first_half: torch.Tensor
    """bool [images]: those that probes and others are chosen on."""


def measure(place: Workplace, group: str, saes: Sequence[LoadedSAE], levels: int = 5, images: int = 768) -> dict:
    """{SAE: {concept: {"own", "all own", "best 1 others", ..., "every latent", and three AUCs}}}, all 0..1.

    saes: all of the group's hookpoint and trained on the same cache. levels: so many noise levels, evenly spread.
    """
    read = _read(place, group, saes, levels, images)
    probes = [fit_probe(x[read.first_half], read.labels[read.first_half]) for x in read.x]
    found: dict = {}
    for sae in saes:
        for concept, name in enumerate(GROUPS[group]):
            own = own_latents(place, sae, group, concept)
            found.setdefault(sae.name, {})[name] = _over_levels(read, sae, probes, concept, own)
    return found


def markdown(found: Sequence[dict]) -> str:
    """found: what was measured with each seed. A row for each kind of SAE, means over concepts, in per cent."""
    columns = list(next(iter(next(iter(found[0].values())).values())))
    lines = ["| SAE | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for of_seeds in zip(*(of_seed.items() for of_seed in found), strict=True):
        kind = of_seeds[0][0].rpartition("_")[0]
        cells = [
            over_seeds(100 * mean(row[column] for row in rows.values()) for _, rows in of_seeds) for column in columns
        ]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def own_latents(place: Workplace, sae: LoadedSAE, group: str, concept: int) -> list[int]:
    """The latents of a concept of the SAE, its own first; without such a concept the best by SAeUron's score."""
    named = [found for found in sae.header.concepts if (found.group, found.name) == (group, GROUPS[group][concept])]
    if sae.header.training.get("supervised_steps") == 0 or not named:
        means, _ = means_of_all_latents(place, sae, group)
        return [int(latent_scores(means)[concept].argmax())]
    return list(named[0].latents)


def fit_probe(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """x [images, d], labels bool [images, concepts] -> directions [concepts, d] by logistic regression.

    Offsets matter neither to evidence nor to AUC and are left out of the result.
    """
    mean, deviation = x.mean(dim=0), x.std(dim=0).clamp(min=1e-6)
    inputs, targets = (x - mean) / deviation, labels.float()
    weight = torch.zeros(labels.shape[1], x.shape[1], requires_grad=True)
    bias = torch.zeros(labels.shape[1], requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = F.binary_cross_entropy_with_logits(F.linear(inputs, weight, bias), targets)
        value = value + DECAY * weight.square().sum(dim=1).mean()
        value.backward()
        return value

    solver.step(loss)
    return weight.detach() / deviation


def auc(values: torch.Tensor, labels: torch.Tensor) -> float:
    """How often a value with the label exceeds one without; ties count half. Both [images]."""
    differences = values[labels][:, None] - values[~labels][None]
    return float((differences > 0).double().mean() + (differences == 0).double().mean() / 2)


def _read(place: Workplace, group: str, saes: Sequence[LoadedSAE], levels: int, images: int) -> Read:
    cache = Cache(place.cache)
    calls, positions, _ = cache.shape(HOOKPOINTS[group])
    concepts = [(group, name) for name in GROUPS[group]]
    among = torch.ones(len(cache.images), dtype=torch.bool)
    chosen = choose_images(cache, HOOKPOINTS[group], among, concepts, images * calls * positions)
    grid, place_of_map = chosen.levels()
    kept = torch.linspace(0, len(grid) - 1, levels).round().long()
    x, z = [], {sae.name: [] for sae in saes}
    for maps, _ in chosen:
        at_levels = torch.stack([maps[place_of_map == level].mean(dim=0) for level in kept])  # [levels, positions, d]
        x.append(saes[0].autoencoder.normalise(at_levels).mean(dim=1))
        for sae in saes:
            z[sae.name].append(_mean_latents(sae.autoencoder, at_levels))
    generator = torch.Generator().manual_seed(0)
    half = torch.randperm(len(chosen), generator=generator) < len(chosen) // 2
    stacked = {name: torch.stack(rows, dim=1) for name, rows in z.items()}
    return Read(torch.stack(x, dim=1), stacked, chosen.labels, half)


@torch.no_grad()
def _mean_latents(sae: SparseAutoencoder, x: torch.Tensor) -> torch.Tensor:
    """x [levels, positions, d] -> latents [levels, n], averaged over positions."""
    return sae.encode(x).mean(dim=1)


def _over_levels(
    read: Read, sae: LoadedSAE, probes: list[torch.Tensor], concept: int, own: list[int]
) -> dict[str, float]:
    """Means over noise levels."""
    labels, decoder = read.labels[:, concept], sae.autoencoder.W_dec
    rows = [
        shares(x, z, labels, read.first_half, decoder, probe[concept], own)
        for x, z, probe in zip(read.x, read.z[sae.name], probes, strict=True)
    ]
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def shares(
    x: torch.Tensor,
    z: torch.Tensor,
    labels: torch.Tensor,
    first_half: torch.Tensor,
    decoder: torch.Tensor,
    probe: torch.Tensor,
    own: list[int],
) -> dict[str, float]:
    """Of one concept at one noise level; own: its latents, the one that is its own first.

    x [images, d], z [images, n], labels and first_half bool [images], decoder [n, d], probe [d].
    """
    told = z * (decoder @ probe)  # [images, n]: what each latent adds to the probe's logit
    by_latent = evidence(told[first_half], labels[first_half])
    by_latent[own[0]] = -torch.inf
    others = by_latent.topk(max(OTHERS)).indices.tolist()
    z, told, labels, logits = (values[~first_half] for values in (z, told, labels, x @ probe))

    def share(latents: list[int]) -> float:
        return float(evidence(told[:, latents].sum(dim=1), labels) / evidence(logits, labels))

    found = {"own": share(own[:1]), "all own": share(own)}
    found |= {f"best {k} others": share(others[:k]) for k in OTHERS}
    found |= {"every latent": share(list(range(z.shape[1])))}
    aucs = {"probe": logits, "own latent": z[:, own[0]], "best other": z[:, others[0]]}
    return found | {f"AUC of the {name}": auc(values, labels) for name, values in aucs.items()}


def evidence(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How much larger values [images, ...] are on average where the label is true [images]."""
    return values[labels].mean(dim=0) - values[~labels].mean(dim=0)
