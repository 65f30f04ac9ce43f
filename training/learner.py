"""An SAE while it is trained: its weights, Adam's moments, and which latents have fallen silent."""

import torch
import torch.nn.functional as F

from ..sae_ops.autoencoder import SAEConfig, SparseAutoencoder
from .config import TrainingConfig
from .distributed import divisible, share, summed, with_others
from .losses import auxiliary_loss, guidance_loss
from .measure import balanced_accuracy
from .sparse import Kept, reconstruct
from .tasks import Task

ROWS_PER_BLOCK = 256
"""On the CPU they stay in the cache while they are worked on."""
AUXILIARY_STRIDE = 4
"""AuxK looks at every fourth vector."""


def new_autoencoder(config: SAEConfig, sample: torch.Tensor, seed: int) -> SparseAutoencoder:
    """Random unit decoder rows, and an encoder along them of the length that reconstructs the sample best.

    Inputs are centred and scaled to unit mean square per channel. sample: activation vectors [vectors, d].
    """
    generator = torch.Generator().manual_seed(seed)
    sae = SparseAutoencoder(config)
    with torch.no_grad():
        sae.input_shift.copy_(sample.mean(dim=0))
        sae.input_scale.copy_((sample - sae.input_shift).square().mean().clamp(min=1e-12).rsqrt())
        sae.W_dec.copy_(F.normalize(torch.randn(sae.W_dec.shape, generator=generator), dim=1))
        sae.W_enc.copy_(sae.W_dec)
        x = sae.normalise(sample[:4096])
        reconstruction, _ = reconstruct(sae, x, torch.float32)
        sae.W_enc.mul_((x * reconstruction).sum() / reconstruction.square().sum().clamp(min=1e-12))
    return sae


class Learner:
    """Trains one SAE, step by step."""

    def __init__(self, sae: SparseAutoencoder, config: TrainingConfig, only: torch.Tensor | None = None):
        """only: the latents that are trained, bool [n]; all other rows and b_dec stay as they are. None: all."""
        self.sae, self.config, self.only = sae, config, only
        self.dtype = torch.bfloat16 if config.precision_on(sae.W_enc.device) == "bf16" else torch.float32
        self.silent = torch.zeros(sae.config.n_latents, dtype=torch.int64, device=sae.W_enc.device)
        """For how many vectors each latent has not fired."""
        usual = 2e-4 / (sae.config.n_latents / 2**14) ** 0.5
        self._rate = usual if config.learning_rate is None else config.learning_rate
        self.restart()

    def restart(self) -> None:
        """Forgets Adam's moments, before another phase."""
        self._adam = torch.optim.Adam(self.sae.parameters(), lr=self._rate, eps=6.25e-10, fused=True)

    def reconstruct(self, vectors: torch.Tensor, done: float) -> dict[str, torch.Tensor]:
        """One step of FVU + auxiliary_weight * AuxK on vectors fp32 [batch, d].

        done: 0..1, how much of the phase is over. Returns fvu, l0, dead latents and the number of vectors, as
        tensors.
        """
        vectors = divisible(vectors)
        x = self.sae.normalise(share(vectors))
        reconstruction, kept = reconstruct(self.sae, x, self.dtype)
        error = (reconstruction - x).square().sum()
        dead = self._listen(kept, len(vectors))
        part = slice(None, None, AUXILIARY_STRIDE)
        residual = (x - reconstruction).detach()[part]
        auxiliary = auxiliary_loss(self.sae, x[part], residual, dead) / summed(residual.square().sum()).clamp(min=1e-9)
        self._update(error / vectors.numel() + self.config.auxiliary_weight * auxiliary, done)
        return self._numbers(error, kept, vectors)

    def supervise(
        self,
        maps: torch.Tensor,
        unprompted: torch.Tensor | None,
        labels: torch.Tensor,
        task: Task,
        done: float,
    ) -> dict:
        """One step of FVU + concept_weight * the task's loss on maps fp32 [batch, positions, d].

        unprompted: the same without the prompt; with them guidance_weight * guidance loss is added. labels: fp32
        [batch, labels], the concepts' first. Returns the same, the concepts' balanced accuracy, and how much of what
        the prompts bring is left unexplained.
        """
        maps = divisible(maps)
        x = self.sae.normalise(share(maps))
        reconstruction, kept = reconstruct(self.sae, x.flatten(0, 1), self.dtype)
        error = (reconstruction - x.flatten(0, 1)).square().sum()
        self._listen(kept, maps.shape[0] * maps.shape[1])
        read = [with_others(table) for table in task.read(self.sae, x)]
        own = share(labels)
        shown = with_others(own[:, : task.concepts].contiguous())
        loss = error / maps.numel() + self.config.concept_weight * task.loss(*read, labels=shown, config=self.config)
        numbers = {"accuracy": balanced_accuracy(read[0] > 0, shown > 0)}
        if unprompted is not None:
            difference = x.detach() - self.sae.normalise(share(unprompted))
            whole = summed(difference.square().sum()).clamp(min=1e-9)
            guidance = guidance_loss(self.sae, x, difference, task.carriers, own) / whole
            loss = loss + self.config.guidance_weight * guidance
            numbers["guidance"] = summed(guidance.detach().clone())
        self._update(loss, done)
        return self._numbers(error, kept, maps.flatten(0, 1)) | numbers

    @property
    def dead(self) -> torch.Tensor:
        """Latents that have not fired for a long time, bool [n]."""
        return self.silent > self.config.dead_after

    def state(self) -> dict:
        """Everything that a run needs to go on, bit for bit."""
        return {"sae": self.sae.state_dict(), "adam": self._adam.state_dict(), "silent": self.silent}

    def load_state(self, state: dict) -> None:
        """Takes over what state() gave."""
        self.sae.load_state_dict(state["sae"])
        self._adam.load_state_dict(state["adam"])
        self.silent.copy_(state["silent"])

    def _listen(self, kept: Kept, vectors: int) -> torch.Tensor:
        """Counts for how long each latent has been silent; returns the dead ones."""
        fired = torch.zeros_like(self.silent).index_add_(0, kept.latents, (kept.values > 0).long())
        self.silent = (self.silent + vectors).masked_fill_(summed(fired) > 0, 0)
        dead = self.dead
        return dead if self.only is None else dead & self.only

    def _numbers(self, error: torch.Tensor, kept: Kept, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            "fvu": summed(error.detach()) / vectors.numel(),  # each channel's variance is 1
            "l0": summed((kept.values > 0).sum()) / len(vectors),
            "dead": self.dead.sum(),
            "vectors": torch.tensor(len(vectors)),
        }

    def _update(self, loss: torch.Tensor, done: float) -> None:
        """One Adam step with unit decoder rows; the learning rate falls to zero over the last fifth."""
        self._adam.zero_grad()
        loss.backward()
        sae = self.sae
        with torch.no_grad():
            gradients = {
                name: parameter.grad for name, parameter in sae.named_parameters() if parameter.grad is not None
            }
            for name, gradient in gradients.items():
                summed(gradient)
                if self.only is not None:
                    gradient[slice(None) if name == "b_dec" else ~self.only] = 0
            size = ROWS_PER_BLOCK if sae.W_dec.device.type == "cpu" else len(sae.W_dec)
            blocks = list(zip(sae.W_dec.split(size), gradients["W_dec"].split(size), strict=True))
            for rows, gradient in blocks:  # a row's gradient along itself would only change its norm
                gradient -= (gradient * rows).sum(dim=1, keepdim=True) * rows
        self._adam.param_groups[0]["lr"] = self._rate * min(1.0, (1 - done) / 0.2)
        self._adam.step()
        with torch.no_grad():
            for start, (rows, _) in enumerate(blocks):
                unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)  # pruned ones of a base may be 0
                if self.only is not None:
                    mine = self.only[start * size :][: len(rows), None]
                    unit = torch.where(mine, unit, rows)
                rows.copy_(unit)
