"""make bench-train: how fast SAEs are trained, by this pack and by others, on the same vectors in one run.

Prints a table and writes output/bench/train.json. Every trainer runs in a process of its own, one after another.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.device import DEVICE, device_name, wait
from benchmarks.one_trainer import OWN_SEED
from benchmarks.vectors import vectors
from checkout import ROOT, import_root

OUT = ROOT / "output" / "bench"
PEERS = ROOT / ".venv-bench" / "bin" / "python"
SHAPES = ({"d": 1280, "n": 20480, "k": 32, "steps": 30}, {"d": 320, "n": 5120, "k": 32, "steps": 120})
BATCH, WARM, READING_ROUNDS = 4096, 4, 7
OURS = ("SAE Eraser", "SAE Eraser, BatchTopK")
TRAINERS = (*OURS, "eai-sparsify", "sae-lens", "dictionary-learning")


def measure(trainer: str, shape: dict, precision: str) -> dict:
    """The record of one trainer in a fresh process."""
    python = sys.executable if trainer in OURS else PEERS
    numbers = [f"--{name}={value}" for name, value in {**shape, "batch": BATCH, "warm": WARM}.items()]
    command = [python, "-m", "benchmarks.one_trainer", trainer, *numbers, "--precision", precision, "--data", OUT]
    quiet = {**os.environ, "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    if DEVICE.type == "cpu":
        quiet["SPARSIFY_DISABLE_TRITON"] = "1"
    ended = subprocess.run(command, capture_output=True, text=True, env=quiet)
    if ended.returncode:
        raise RuntimeError(f"{trainer} failed:\n{ended.stderr[-3000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def ceiling(shape: dict, precision: str) -> float:
    """Vectors a second of the encoder's product alone, its output written to memory."""
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    x = torch.randn(BATCH, shape["d"]).to(DEVICE, dtype)
    weight = torch.randn(shape["n"], shape["d"]).to(DEVICE, dtype)
    out = torch.empty(BATCH, shape["n"], dtype=dtype, device=DEVICE)
    seconds = []
    for _ in range(12):
        wait()
        began = time.perf_counter()
        torch.mm(x, weight.T, out=out)
        wait()
        seconds.append(time.perf_counter() - began)
    return BATCH / sorted(seconds[2:])[5]


def reading(shape: dict) -> dict[str, float]:
    """Vectors a second of this pack's training from memory and from a cache on disk eight times the size of a load.

    Both in turns; the median of all turns.
    """
    from sae_eraser.sae_ops.autoencoder import SAEConfig
    from sae_eraser.training.cache.manifest import CachedImage, CacheSettings
    from sae_eraser.training.cache.reader import Cache
    from sae_eraser.training.cache.writer import CacheWriter
    from sae_eraser.training.config import TrainingConfig
    from sae_eraser.training.learner import Learner, new_autoencoder
    from sae_eraser.training.stream import Stream

    maps = vectors(OUT, shape["d"])[0].view(-1, 4, 256, shape["d"])
    images = [CachedImage("", seed, {}) for seed in range(len(maps))]
    with tempfile.TemporaryDirectory(dir=OUT) as folder:
        settings = CacheSettings("", {"x": shape["d"]}, "output", {}, images, images_per_shard=32)
        writer = CacheWriter(Path(folder), settings)
        for shard in writer.missing():
            part = maps[list(settings.shard_images(shard))]
            writer.write_shard(shard, {"x": part}, torch.ones(part.shape[:2]))
        everything = torch.ones(len(images), dtype=torch.bool)
        size = maps.numel() * 2
        batches = {
            name: Stream(Cache(Path(folder)), "x", everything, buffer_bytes=memory, seed=0).vectors(BATCH)
            for name, memory in (("memory", 4 * size), ("disk", size // 4))
        }
        first = next(batches["memory"])
        sae = new_autoencoder(SAEConfig(shape["d"], shape["n"], "topk", shape["k"]), first, OWN_SEED)
        learner = Learner(sae.to(DEVICE), TrainingConfig())
        for _ in range(WARM):
            learner.reconstruct(first.to(DEVICE), 0.0)
        rates: dict[str, list[float]] = {name: [] for name in batches}
        for _ in range(READING_ROUNDS):
            for name, stream in batches.items():
                for path in Path(folder).iterdir():  # out of the system's memory
                    with open(path, "rb") as file:
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                began = time.perf_counter()
                for _ in range(shape["steps"] // 3):
                    learner.reconstruct(next(stream).to(DEVICE), 0.0)
                wait()
                rates[name].append(shape["steps"] // 3 * BATCH / (time.perf_counter() - began))
    return {name: statistics.median(measured) for name, measured in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS, default=TRAINERS)
    parser.add_argument("--precisions", nargs="+", choices=("bf16", "fp32"), default=("bf16", "fp32"))
    options = parser.parse_args()
    import_root()
    for shape in SHAPES:
        vectors(OUT, shape["d"])
    records = []
    plan = [(s, p, t) for s in SHAPES for p in options.precisions for t in options.trainers]
    for shape, precision, trainer in (bar := tqdm(plan)):
        bar.set_description(f"{trainer}, d={shape['d']}, {precision}")
        record = measure(trainer, shape, precision)
        records.append({**record, **shape, "precision": precision, "batch": BATCH})
    for shape in SHAPES:
        for precision in options.precisions:
            rate = ceiling(shape, precision)
            for record in records:
                if (record["d"], record["precision"]) == (shape["d"], precision):
                    record["ceiling_vectors_per_second"] = rate
    disk = {f"d={shape['d']}": reading(shape) for shape in SHAPES}
    machine = {"device": device_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "train.json").write_text(json.dumps({"machine": machine, "records": records, "reading": disk}, indent=1))
    print(table(records))
    for shape, rates in disk.items():
        share = 100 * rates["disk"] / rates["memory"]
        print(f"{shape}: {rates['disk']:,.0f} vectors/s from disk, {share:.0f} % of those from memory")


def table(records: list[dict]) -> str:
    """Markdown; the last column is against the fastest other trainer of the same shape and precision."""
    lines = [
        "| d, n | precision | trainer | vectors/s | of the product alone | peak GB | FVU | fastest peer = 1 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        same = [r for r in records if (r["d"], r["precision"]) == (record["d"], record["precision"])]
        peers = [r["vectors_per_second"] for r in same if r["trainer"] not in OURS]
        rate = record["vectors_per_second"]
        ratio = f"{rate / max(peers):.2f}" if peers else ""
        lines.append(
            f"| {record['d']}, {record['n']} | {record['precision']} | {record['trainer']} | {rate:,.0f} | "
            f"{100 * rate / record['ceiling_vectors_per_second']:.0f} % | {record['peak_bytes'] / 2**30:.1f} | "
            f"{record['fvu']:.4f} | {ratio} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
