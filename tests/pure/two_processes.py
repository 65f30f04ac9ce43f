"""Functions of this module, called in two processes that know each other as those of torchrun do.

They import the pack themselves, since a new process has yet to find it.
"""

import contextlib
import io
import os
import socket
from pathlib import Path
from unittest import mock

import torch

import checkout
from pure.training_runs import fork, train


def in_two_processes(function, *arguments) -> list:
    """What it returns in each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(2):
        receiver, sender = fork.Pipe(duplex=False)
        process = fork.Process(target=_call, args=(rank, port, sender, function, arguments))
        process.start()
        sender.close()
        started.append((process, receiver))
    results = [receiver.recv() for _, receiver in started]
    for process, _ in started:
        process.join()
    return results


def _call(rank: int, port: int, sender, function, arguments: tuple) -> None:
    os.environ |= {"RANK": f"{rank}", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    checkout.import_root()
    torch.set_num_threads(1)
    sender.send(function(*arguments))


def first_latents(activation: str, k: int, loud: int) -> list[tuple[int, int, float]]:
    """(vector, latent, value) of what this process, or the only one, keeps of a batch of 80; one vector is loud."""
    from pure.random_sae import random_sae
    from sae_eraser.training import distributed
    from sae_eraser.training.sparse import kept_latents

    distributed.start()
    sae = random_sae(activation, n=64, k=k)
    x = torch.randn(80, 12, generator=torch.Generator().manual_seed(0))
    x[loud] *= 50
    kept = kept_latents(sae, distributed.share(x), torch.float32)
    vectors = distributed.share(torch.arange(80))
    owners = torch.repeat_interleave(torch.diff(kept.starts, append=torch.tensor([len(kept.latents)])))
    distributed.stop()
    return list(zip(vectors[owners].tolist(), kept.latents.tolist(), kept.values.tolist(), strict=True))


def first_step(phase: str, size: int | None = None) -> tuple[dict[str, list], dict[str, float], list[int]]:
    """Gradients, numbers and silent counts of the first step of a phase; size: of its batch, of all that there is."""
    from pure.planted import CONCEPTS, plant
    from sae_eraser.sae_ops.autoencoder import SAEConfig
    from sae_eraser.training import distributed
    from sae_eraser.training.config import TrainingConfig
    from sae_eraser.training.learner import Learner, new_autoencoder
    from sae_eraser.training.tasks import ConceptTask

    distributed.start()
    planted = plant(range(10))
    maps = planted.maps.flatten(0, 1)
    labels = planted.labels().repeat_interleave(planted.maps.shape[1], dim=0)
    sae = new_autoencoder(SAEConfig(16, 32, "batchtopk", 2), maps.flatten(0, 1), seed=0)
    learner = Learner(sae, TrainingConfig(precision="fp32"))
    if phase == "reconstruct":
        numbers = learner.reconstruct(maps.flatten(0, 1)[:size], 0)
    else:
        task = ConceptTask(
            [[3, 20], [1, 21], [4, 22], [15, 23], [9, 24]], [group for group, _ in CONCEPTS], labels, torch.ones(5, 5)
        )
        batch = (maps, planted.unprompted.flatten(0, 1), labels.float())
        numbers = learner.supervise(*(rows[:size] for rows in batch), task, 0)
    distributed.stop()
    gradients = {name: parameter.grad.tolist() for name, parameter in sae.named_parameters()}
    return gradients, {name: float(number) for name, number in numbers.items()}, learner.silent.tolist()


def training(cache: Path, out: Path, *options: object) -> tuple[int, list[str]]:
    """The exit status of a training, and the names of the files that this process has put into place."""
    written = []
    replace = os.replace

    def note(source, target):
        written.append(Path(target).name)
        replace(source, target)

    with mock.patch.object(os, "replace", note):
        return train(cache, out, *options), written


def complaint(cache: Path, out: Path, *options: object) -> str:
    """What a training that fails has said last."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert train(cache, out, *options) == 1
    return said.getvalue().splitlines()[-1]
