"""The two training phases: first reconstruction alone, then one latent for each concept."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..sae_ops.autoencoder import SAEConfig, SparseAutoencoder
from .data import ConceptMaps
from .losses import auxiliary_loss, concept_loss, decorrelation_loss, fvu

Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class TrainingConfig:
    """How an SAE is trained; the defaults suit a cache of a few hundred thousand vectors."""

    unsupervised_steps: int = 1000
    supervised_steps: int = 800
    vectors: int = 2048
    """Activation vectors a step in the unsupervised phase."""
    maps: int = 96
    """Maps (one image at one noise level) a step in the supervised phase."""
    learning_rate: float | None = None
    """Adam's; None is 2e-4 / sqrt(n / 2^14)."""
    dead_after: int = 200_000
    """A latent is dead when it has not fired for this many vectors."""
    auxiliary_weight: float = 1 / 32
    concept_weight: float = 0.3
    decorrelation_weight: float = 0.1
    """Within the concept loss."""
    seed: int = 0


def new_autoencoder(config: SAEConfig, data: ConceptMaps, seed: int) -> SparseAutoencoder:
    """Random unit decoder rows, tied encoder; inputs are centred and scaled to unit mean square per channel."""
    generator = torch.Generator().manual_seed(seed)
    sae = SparseAutoencoder(config)
    sample = data.vectors(100_000, generator)
    with torch.no_grad():
        sae.input_shift.copy_(sample.mean(dim=0))
        sae.input_scale.copy_((sample - sae.input_shift).square().mean().rsqrt())
        sae.W_dec.copy_(F.normalize(torch.randn(sae.W_dec.shape, generator=generator), dim=1))
        sae.W_enc.copy_(sae.W_dec)
    return sae


def training_latents(sae: SparseAutoencoder, pre_acts: torch.Tensor) -> torch.Tensor:
    """Latents as while training: for batchtopk the k * B largest of the whole batch [B, n]."""
    if sae.config.activation != "batchtopk":
        return sae.activate(pre_acts)
    positive = pre_acts.relu()
    kept = positive.flatten().topk(sae.config.k * len(positive), sorted=False)
    return torch.zeros_like(positive.flatten()).scatter_(0, kept.indices, kept.values).view_as(positive)


def train_unsupervised(sae: SparseAutoencoder, data: ConceptMaps, config: TrainingConfig, report: Report) -> None:
    """Loss = FVU + AuxK / 32, on random vectors. Reports step, fvu and dead latents."""
    generator = torch.Generator().manual_seed(config.seed + 1)
    optimizer = _optimizer(sae, config)
    silent = torch.zeros(sae.config.n_latents)
    for step in range(config.unsupervised_steps):
        x = data.vectors(config.vectors, generator)
        pre_acts = sae.pre_acts(x)
        z = training_latents(sae, pre_acts)
        normalised = sae.normalise(x)
        reconstruction = z @ sae.W_dec + sae.b_dec
        silent = torch.where((z > 0).any(dim=0), 0, silent + len(x))
        dead = silent > config.dead_after
        unexplained = fvu(normalised, reconstruction)
        auxiliary = auxiliary_loss(sae, normalised, reconstruction, pre_acts, dead)
        _step(sae, optimizer, unexplained + config.auxiliary_weight * auxiliary, step / config.unsupervised_steps)
        report({"step": step + 1, "fvu": unexplained.item(), "dead": int(dead.sum())})


def train_supervised(
    sae: SparseAutoencoder,
    latents: list[int],
    groups: list[str],
    data: ConceptMaps,
    config: TrainingConfig,
    report: Report,
) -> None:
    """Loss = FVU + concept_weight * (BCE on the mean logits of the assigned latents + decorrelation).

    latents and groups belong to the columns of data.labels. Reports step, fvu and concept accuracy.
    """
    generator = torch.Generator().manual_seed(config.seed + 2)
    optimizer = _optimizer(sae, config)
    columns = torch.tensor(latents)
    kinds = torch.tensor([sorted(set(groups)).index(group) for group in groups])
    positives = data.labels.float().mean(dim=0)
    balance = ((1 - positives) / positives.clamp(min=1e-6)).clamp(max=20).sqrt()
    for step in range(config.supervised_steps):
        maps, labels = data.batch(config.maps, generator)
        pre_acts = sae.pre_acts(maps)
        z = training_latents(sae, pre_acts.flatten(0, 1))
        unexplained = fvu(sae.normalise(maps).flatten(0, 1), z @ sae.W_dec + sae.b_dec)
        logits = pre_acts[..., columns].mean(dim=1)
        supervised = concept_loss(logits, labels, balance) + config.decorrelation_weight * decorrelation_loss(
            logits, kinds
        )
        _step(sae, optimizer, unexplained + config.concept_weight * supervised, step / config.supervised_steps)
        accuracy = ((logits > 0) == labels.bool()).float().mean().item()
        report({"step": step + 1, "fvu": unexplained.item(), "accuracy": accuracy})


def _optimizer(sae: SparseAutoencoder, config: TrainingConfig) -> torch.optim.Optimizer:
    rate = config.learning_rate or 2e-4 / (sae.config.n_latents / 2**14) ** 0.5
    return torch.optim.Adam(sae.parameters(), lr=rate, eps=6.25e-10)


def _step(sae: SparseAutoencoder, optimizer: torch.optim.Optimizer, loss: torch.Tensor, progress: float) -> None:
    """One Adam step with unit decoder rows; the learning rate falls to zero over the last fifth."""
    optimizer.zero_grad()
    loss.backward()
    gradient = sae.W_dec.grad
    assert gradient is not None
    with torch.no_grad():  # a row's gradient along itself would only change its norm
        gradient -= (gradient * sae.W_dec).sum(dim=1, keepdim=True) * sae.W_dec
    torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
    base = optimizer.defaults["lr"]
    optimizer.param_groups[0]["lr"] = base * min(1.0, (1 - progress) / 0.2)
    optimizer.step()
    with torch.no_grad():
        sae.W_dec.copy_(F.normalize(sae.W_dec, dim=1))
