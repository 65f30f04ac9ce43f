"""What is measured on: the GPU if there is one."""

import platform
import resource
from pathlib import Path

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    """Until the GPU has done what it was given."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def peak() -> int:
    """Bytes of the GPU's memory, or of this process's."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def device_name() -> str:
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
