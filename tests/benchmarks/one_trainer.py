"""One trainer on one shape, in a process of its own, on the GPU if there is one: prints a JSON record.

train_speed.py starts it. Every trainer gets the same vectors in the same order, TopK (ours BatchTopK as well), Adam
with the learning rate 2e-4 / sqrt(n / 2^14), no warm-up and no decay. Peers run the code of their own training step.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.device import DEVICE, peak, wait
from benchmarks.vectors import SEED, vectors
from checkout import import_root

Step = Callable[[int, torch.Tensor], object]
Reconstruct = Callable[[torch.Tensor], torch.Tensor]

OWN_SEED = SEED + 1
"""With that of the vectors ours would begin with the very directions that they are made of."""


def ours(
    d: int, n: int, k: int, precision: str, first: torch.Tensor, activation: str = "topk"
) -> tuple[Step, Reconstruct]:
    from sae_eraser.sae_ops.autoencoder import SAEConfig
    from sae_eraser.training.config import TrainingConfig
    from sae_eraser.training.learner import Learner, new_autoencoder
    from sae_eraser.training.sparse import reconstruct

    sae = new_autoencoder(SAEConfig(d, n, activation, k), first.cpu(), OWN_SEED).to(DEVICE)
    learner = Learner(sae, TrainingConfig(precision=precision, dead_after=10_000_000))

    def reconstructed(x: torch.Tensor) -> torch.Tensor:
        """With k latents a vector; BatchTopK as it is trained, since it gets its threshold only in the end."""
        return reconstruct(sae, sae.normalise(x), torch.float32)[0] / sae.input_scale + sae.input_shift

    return lambda step, x: learner.reconstruct(x, 0.0), reconstructed


def sparsify(d: int, n: int, k: int, precision: str, first: torch.Tensor) -> tuple[Step, Reconstruct]:
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(0)
    sae = SparseCoder(d, SparseCoderConfig(num_latents=n, k=k), device=DEVICE, dtype=torch.float32)
    adam = torch.optim.Adam(sae.parameters(), lr=learning_rate(n))
    silent = torch.zeros(n, dtype=torch.long, device=DEVICE)

    sae.b_dec.data = first.mean(dim=0)

    def step(index: int, x: torch.Tensor) -> None:
        sae.set_decoder_norm_to_unit_norm()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bf16"):
            out = sae(x, dead_mask=silent > 10_000_000)
            loss = out.fvu + out.auxk_loss / 32
        fired = torch.zeros(n, dtype=torch.bool, device=DEVICE)
        fired[out.latent_indices.flatten()] = True
        silent.add_(len(x)).masked_fill_(fired, 0)
        loss.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()

    return step, lambda x: sae(x).sae_out


def dictionary_learning(d: int, n: int, k: int, precision: str, first: torch.Tensor) -> tuple[Step, Reconstruct]:
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=10**9, activation_dim=d, dict_size=n, k=k, layer=0, lm_name="", lr=learning_rate(n), warmup_steps=0,
        seed=0, device=str(DEVICE),
    )  # fmt: skip

    def step(index: int, x: torch.Tensor) -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bf16"):
            trainer.update(index, x)

    return step, trainer.ae


def sae_lens(d: int, n: int, k: int, precision: str, first: torch.Tensor) -> tuple[Step, Reconstruct]:
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d, d_sae=n, k=k, device=str(DEVICE)))
    config = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=4096,
        lr=learning_rate(n),
        lr_end=learning_rate(n),
        autocast=precision == "bf16",
        device=str(DEVICE),
    )
    trainer = SAETrainer(config, sae, iter(()))

    def step(index: int, x: torch.Tensor) -> None:
        trainer.step(x)
        trainer.n_training_steps += 1

    return step, sae


TRAINERS = {
    "SAE Eraser": ours,
    "SAE Eraser, BatchTopK": partial(ours, activation="batchtopk"),
    "eai-sparsify": sparsify,
    "sae-lens": sae_lens,
    "dictionary-learning": dictionary_learning,
}


def learning_rate(n: int) -> float:
    return 2e-4 / (n / 2**14) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trainer", choices=TRAINERS)
    for name in ("d", "n", "k", "batch", "steps", "warm"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--precision", choices=("bf16", "fp32"), required=True)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()

    import_root()
    training, held_out = vectors(options.data, options.d)
    batches = training.split(options.batch)
    step, reconstruct = TRAINERS[options.trainer](
        options.d, options.n, options.k, options.precision, batches[0].float().to(DEVICE)
    )
    seconds = []
    for index in range(options.steps):
        x = batches[index % len(batches)].float().to(DEVICE)
        wait()
        began = time.perf_counter()
        step(index, x)
        wait()
        seconds.append(time.perf_counter() - began)
    with torch.no_grad():
        rest = torch.cat([reconstruct(part.to(DEVICE)).float().cpu() - part for part in held_out.split(1024)])
    fvu = rest.square().sum() / (held_out - held_out.mean(dim=0)).square().sum()
    timed = sorted(seconds[options.warm :])
    print(
        json.dumps(
            {
                "trainer": options.trainer,
                "vectors_per_second": options.batch / timed[len(timed) // 2],
                "peak_bytes": peak(),
                "fvu": fvu.item(),
            }
        )
    )


if __name__ == "__main__":
    main()
