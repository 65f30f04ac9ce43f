"""`sae-eraser train` as the tests run it: on the CPU and without pictures, which take longer than such a training.

Processes of their own are forked from one that has imported torch, so that they start at once.
"""

import multiprocessing
import resource
import sys
import time
from pathlib import Path
from unittest import mock

import torch

import checkout

fork = multiprocessing.get_context("forkserver")
fork.set_forkserver_preload(["torch", "torch._dynamo", "tqdm", "safetensors.torch"])  # torch.optim needs _dynamo

STEPS = ("--unsupervised-steps", "2", "--supervised-steps", "2", "--concept-latents", "1")
QUICK = ("--latents", "16", "--k", "2", *STEPS)
"""Options of as short a training as there is; STEPS for those of an SAE whose size is given."""
SUPERVISING, FINISHING = 10**8, 2 * 10**8
"""The numbers of the checkpoints with which these phases begin."""


def train(cache: Path, out: Path, *options: object) -> int:
    """In this process; returns the exit status."""
    from sae_eraser.training import cli, distributed

    matplotlib = sys.modules.get("matplotlib")
    sys.modules["matplotlib"] = None  # as if it were not installed
    try:
        with mock.patch.object(distributed, "device", lambda: torch.device("cpu")):
            return cli.main(["train", str(cache), "--out", str(out), *map(str, options)])
    finally:
        del sys.modules["matplotlib"]
        if matplotlib:
            sys.modules["matplotlib"] = matplotlib


def train_elsewhere(cache: Path, out: Path, *options: object) -> int:
    """In a process of its own with one thread; returns its peak memory in bytes."""
    process, receiver = _start((cache, out, *options), None)
    process.join()
    assert process.exitcode == 0
    return receiver.recv()


def train_and_kill(cache: Path, out: Path, *options: object, at: int) -> None:
    """The same, killed with SIGKILL as soon as it has written a checkpoint of this number or a later one."""
    process, receiver = _start((cache, out, *options), at)
    receiver.recv()
    process.kill()
    process.join()
    assert process.exitcode == -9


def _start(arguments: tuple, killed_at: int | None):
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_main, args=(arguments, killed_at, sender))
    process.start()
    sender.close()
    return process, receiver


def _main(arguments: tuple, killed_at: int | None, sender) -> None:
    checkout.import_root()
    from sae_eraser.training.checkpoint import Checkpoints

    torch.set_num_threads(1)
    save = Checkpoints.save

    def save_and_tell(checkpoints: Checkpoints, number: int, state: dict) -> None:
        save(checkpoints, number, state)
        if killed_at is not None and number >= killed_at:
            sender.send(number)
            if number >= FINISHING:
                time.sleep(600)  # the little that is left to do must not be done before the kill

    with mock.patch.object(Checkpoints, "save", save_and_tell):
        status = train(*arguments)
    if killed_at is None:
        sender.send(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    sys.exit(status)
