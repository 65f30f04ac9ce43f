"""make bench-erase: what erasing costs beside one step of SD 1.5 at 512 pixels and of SDXL at 1024, all in bf16.

Prints a table and writes output/bench/erase.json. The weights are random: the time does not depend on them. The step is
ComfyUI's own model called once with both halves of guidance; the edits run on what passed at the hookpoint, with
concepts of 24 latents, as `train` gives them, of which none, one or all are shown, and of one latent, as SAEmnesia has
them, all shown. On the CPU each runs in a process of its own, for the memory it takes; on a GPU each way does.
"""

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from tqdm import tqdm

from benchmarks.device import DEVICE, device_name
from benchmarks.one_edit import ACTIVATIONS
from benchmarks.one_step import MODELS
from checkout import ROOT

OUT = ROOT / "output" / "bench"
CONCEPTS = (1, 10, 50)
PLANS = {"dense": [(count, count, 24) for count in CONCEPTS]} | {
    way: [(count, shown, 24) for count in CONCEPTS for shown in sorted({0, 1, count})] + [(1, 1, 1), (50, 50, 1)]
    for way in ACTIVATIONS
}
"""For every way how many concepts are erased, how many of them the picture shows, and how many latents each has."""


def run(module: str, *arguments: object) -> Any:
    """The last line that a benchmark prints, in a fresh process."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    path = os.pathsep.join(filter(None, ("tests", os.environ.get("PYTHONPATH"))))
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, cwd=ROOT)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{ended.stderr[-3000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    records = []
    with tqdm(total=len(options.models) * (1 + sum(map(len, PLANS.values())))) as bar:
        for model in options.models:
            bar.set_description(f"{model}, one step")
            activations = OUT / f"activations-{model}.safetensors"
            step = run("one_step", model, activations)
            nothing = {"way": "no SAE", "concepts": 0, "shown": 0, "latents": 0}
            records.append({"model": model, **nothing, "seconds": step["seconds"]})
            bar.update()
            for way, plan in PLANS.items():
                bar.set_description(f"{model}, {way}")
                for edits in [plan] if DEVICE.type == "cuda" else [[edit] for edit in plan]:
                    counts, shown, each = zip(*edits, strict=True)
                    flags = ("--concepts", *counts, "--shown", *shown, "--latents", *each)
                    for record in run("one_edit", way, activations, *flags):
                        share = record["seconds"] / step["seconds"]
                        records.append({**record, "model": model, "share_of_step": share})
                        bar.update()
    (OUT / "erase.json").write_text(json.dumps([record | {"device": device_name()} for record in records], indent=1))
    print(f"On {device_name()}:\n{table(records)}")


def table(records: list[dict]) -> str:
    """Markdown; milliseconds, and thousandths of a step."""
    lines = [
        "| model | way | concepts | shown | latents each | ms | of a step | extra MB | the dense way = 1 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        model, way, count, shown, each = (record[name] for name in ("model", "way", "concepts", "shown", "latents"))
        start = f"| {model} | {way} | {count} | {shown} | {each} | {1000 * record['seconds']:,.2f} | "
        if way == "no SAE":
            lines.append(start + "100 % | | |")
            continue
        (dense,) = (r["seconds"] for r in records if (r["model"], r["way"], r["concepts"]) == (model, "dense", count))
        lines.append(
            f"{start}{100 * record['share_of_step']:.3f} % | {record['extra_bytes'] / 2**20:.0f} | "
            f"1/{dense / record['seconds']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
