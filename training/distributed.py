"""Several processes as torchrun starts them: each takes its share of every batch, sums go through all of them."""

import os

import torch
import torch.distributed


def start() -> None:
    """Joins the processes that torchrun started, if it did."""
    if "WORLD_SIZE" in os.environ and not torch.distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(device())
        # gloo beside nccl: a new SAE is made on the CPU, from what all have seen of the data
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


def stop() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0 on; the first one writes and speaks."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def processes() -> int:
    """How many train together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def device() -> torch.device:
    """The GPU of this process, or the CPU."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )


def divisible(batch: torch.Tensor) -> torch.Tensor:
    """The batch without its last rows, processes - 1 at most, so that all processes have equally many."""
    return batch[: len(batch) - len(batch) % processes()]


def share(batch: torch.Tensor) -> torch.Tensor:
    """This process's rows of a batch, or of what is divisible of it."""
    return divisible(batch)[rank() :: processes()]


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in place."""
    if processes() > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """The tensors [m] of all processes, one after another; all of one size."""
    if processes() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(processes())]
    torch.distributed.all_gather(parts, tensor)
    return torch.cat(parts)


def gathered_filled_up(tensor: torch.Tensor, value: float) -> torch.Tensor:
    """The tensors [m] of all processes, [processes, the longest m], shorter ones filled up with this value."""
    if processes() == 1:
        return tensor[None]
    longest = int(gathered(torch.tensor([len(tensor)], device=tensor.device)).max())
    filled_up = torch.nn.functional.pad(tensor, (0, longest - len(tensor)), value=value)
    return gathered(filled_up).view(processes(), longest)


def as_first_says(numbers: dict[str, float]) -> dict[str, float]:
    """The first process's numbers, so that all decide alike by them."""
    if processes() == 1:
        return numbers
    said = torch.tensor(list(numbers.values()), device=device())
    torch.distributed.broadcast(said, 0)
    return dict(zip(numbers, said.tolist(), strict=True))


def with_others(tensor: torch.Tensor) -> torch.Tensor:
    """The rows of all processes. Only this one's own carry a gradient; summed over processes gradients are whole."""
    if processes() == 1:
        return tensor
    rows = list(gathered(tensor.detach()).split(len(tensor)))
    rows[rank()] = tensor
    return torch.cat(rows)
