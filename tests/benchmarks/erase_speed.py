"""make bench-erase: what erasing costs beside one step of SD 1.5 at 512 pixels and of SDXL at 1024, all in bf16.

Prints a table and writes output/bench/erase.json. The weights are random: the time does not depend on them. The step is
ComfyUI's own model called once with both halves of guidance; the edits run on what passed at the hookpoint, with
concepts of 24 latents, as `train` gives them, of which none, one or all are shown. Every way runs in a process of its
own.
"""

import argparse
import json
import os
import subprocess
import sys

from tqdm import tqdm

from benchmarks.one_edit import WAYS
from benchmarks.one_step import MODELS
from checkout import ROOT

OUT = ROOT / "output" / "bench"
CONCEPTS = (1, 10, 50)


def run(module: str, *arguments: object) -> dict:
    """The last line that a benchmark prints, in a fresh process."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "tests"}, cwd=ROOT)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{ended.stderr[-3000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    records = []
    plan = [
        (way, count, shown)
        for way in WAYS
        for count in CONCEPTS
        for shown in ((count,) if way == "dense" else sorted({0, 1, count}))
    ]
    with tqdm(total=len(options.models) * (1 + len(plan))) as bar:
        for model in options.models:
            bar.set_description(f"{model}, one step")
            activations = OUT / f"activations-{model}.safetensors"
            step = run("one_step", model, activations)
            records.append({"model": model, "way": "no SAE", "concepts": 0, "shown": 0, "seconds": step["seconds"]})
            bar.update()
            for way, count, shown in plan:
                bar.set_description(f"{model}, {way}, {shown} of {count}")
                record = run("one_edit", way, count, shown, activations)
                record |= {"model": model, "share_of_step": record["seconds"] / step["seconds"]}
                records.append(record)
                bar.update()
    (OUT / "erase.json").write_text(json.dumps(records, indent=1))
    print(table(records))


def table(records: list[dict]) -> str:
    """Markdown; milliseconds, and thousandths of a step."""
    lines = [
        "| model | way | concepts | shown | ms | of a step | extra MB | the dense way = 1 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        model, way, count, shown = (record[name] for name in ("model", "way", "concepts", "shown"))
        start = f"| {model} | {way} | {count} | {shown} | {1000 * record['seconds']:,.2f} | "
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
