"""One way to erase, on what passed at a hookpoint: prints JSON records of its seconds and memory.

erase_speed.py starts it.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from benchmarks.device import DEVICE, wait
from checkout import import_root

N, K = 20480, 32
RUNS = 15
ACTIVATIONS = {"exact": "topk", "threshold": "batchtopk"}
"""Ways of ours. exact: whether a latent is among the k largest is decided. threshold: it counts if it is above one."""

Edit = Callable[[torch.Tensor], torch.Tensor]


def dense(x: torch.Tensor, W: torch.Tensor, latents: torch.Tensor) -> Edit:
    """As SAeUron's hook does it, with two dense decodes; in the model's precision."""
    W = W.to(x.device, x.dtype)
    latents = latents.to(x.device)

    def edit(x: torch.Tensor) -> torch.Tensor:
        vectors = x.flatten(2).movedim(1, 2).flatten(0, 1)
        values, chosen = F.linear(vectors, W).relu().topk(K, dim=1, sorted=False)
        z = values.new_zeros(len(vectors), N).scatter_(1, chosen, values)
        reconstruction = z @ W
        edited = z.clone()
        edited[:, latents.flatten()] *= -1
        result = edited @ W + (vectors - reconstruction)
        return result.unflatten(0, (len(x), -1)).movedim(2, 1).reshape(x.shape)

    return edit


def ours(x: torch.Tensor, W: torch.Tensor, latents: torch.Tensor, activation: str, shown: int) -> Edit:
    """latents [concepts, of each]: the first detects. Only the first `shown` concepts can pass their gates."""
    from sae_eraser.sae_ops.autoencoder import SAEConfig, SparseAutoencoder
    from sae_eraser.sae_ops.chosen_latents import encoder_of
    from sae_eraser.sae_ops.concepts import Concept, ConceptStatistics
    from sae_eraser.sae_ops.edit import ConceptEdit
    from sae_eraser.sae_ops.erasure import Erasure

    with torch.device("meta"):  # so that no memory is taken for weights that are not used
        sae = SparseAutoencoder(SAEConfig(W.shape[1], N, activation, K))
    state = {name: torch.zeros(tensor.shape) for name, tensor in sae.state_dict().items() if not name.startswith("W_")}
    state |= {"W_enc": W, "W_dec": W, "input_scale": torch.ones(())}
    sae.load_state_dict(state, assign=True)
    sae.requires_grad_(False)
    level = torch.ones(1, latents.numel())
    gate = torch.full(latents.shape, 1e9).index_fill_(0, torch.arange(shown), 0).view(1, -1)
    statistics = ConceptStatistics(torch.ones(1), level, 0 * level, gate)
    concepts = tuple(Concept(str(own[0]), "", tuple(own), first_detects=True) for own in latents.tolist())
    encoder = encoder_of(sae, x.device).to(x.device) if activation == "topk" else None
    erasures = tuple(Erasure(index) for index in range(len(concepts)))
    edit = ConceptEdit(sae, concepts, statistics, erasures, encoder).to(x.device)
    sigma, is_cond = torch.ones(len(x)), torch.arange(len(x)) == 0
    return lambda x: edit(x, sigma, is_cond)


def random_decoder(d: int) -> torch.Tensor:
    """fp32 [N, d], rows of unit length; also the encoder."""
    return F.normalize(torch.randn(N, d, generator=torch.Generator().manual_seed(0)), dim=1)


class Memory:
    """Bytes taken since this was made, of the GPU's memory or of this process's as Linux counts them."""

    def __init__(self):
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        self._before = torch.cuda.memory_allocated() if DEVICE.type == "cuda" else _resident("VmRSS")

    def most(self) -> int:
        return (torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else _resident("VmHWM")) - self._before


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def measure(way: str, count: int, shown: int, each: int, x: torch.Tensor, W: torch.Tensor) -> dict:
    """Of `count` concepts with so many latents each `shown` pass their gates, wherever their latents are positive."""
    some = x[0].flatten(1).T[:64].float().cpu()
    strongest = F.linear(some, W).relu().sum(dim=0).topk(each * count).indices
    latents = strongest.view(each, count).T
    gc.collect()
    F.linear(x[:1, :, :1, :1].float().flatten()[None], W.to(DEVICE))
    memory = Memory()
    edit = dense(x, W, latents) if way == "dense" else ours(x, W, latents, ACTIVATIONS[way], shown)
    torch.empty(30 << 20, dtype=torch.uint8)  # as a model has done before: from now on malloc keeps memory of this size
    seconds = []
    with torch.no_grad():
        for _ in range(2 + RUNS):
            wait()
            began = time.perf_counter()
            edit(x)
            wait()
            seconds.append(time.perf_counter() - began)
    record = {"way": way, "concepts": count, "shown": shown, "latents": each}
    return record | {"seconds": sorted(seconds[2:])[RUNS // 2], "extra_bytes": memory.most()}


def main() -> None:
    import_root()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=("dense", *ACTIVATIONS))
    parser.add_argument("activations", type=Path)
    parser.add_argument("--concepts", type=int, nargs="+", help="how many are erased")
    parser.add_argument("--shown", type=int, nargs="+", help="how many of them the picture shows")
    parser.add_argument("--latents", type=int, nargs="+", help="how many each of them has")
    options = parser.parse_args()
    x = load_file(options.activations)["x"].to(DEVICE)
    W = random_decoder(x.shape[1])
    edits = zip(options.concepts, options.shown, options.latents, strict=True)
    print(json.dumps([measure(options.way, *edit, x, W) for edit in edits]))


if __name__ == "__main__":
    main()
