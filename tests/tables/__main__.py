"""Measures the papers' tables on ShapeCanvas, every method in one run, into output/tables.

PYTHONPATH=tests .venv/bin/python -m tables            all of it
PYTHONPATH=tests .venv/bin/python -m tables --quick    a smaller version of the same layout

What was measured is kept, so a run that was stopped goes on where it was.
"""

import argparse
import json
import platform
from pathlib import Path

from checkout import ROOT
from comfy_process import become_comfyui, load_pack, load_small_world

BASE, OUT = ROOT / ".comfyui-base", ROOT / "output" / "tables"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()

    BASE.mkdir(exist_ok=True)
    become_comfyui(BASE)
    load_small_world()
    load_pack(BASE)
    from shapecanvas.collect import collect
    from shapecanvas.world import open_world

    from .erasing import FULL, QUICK, Bench, one_concept, several_concepts
    from .markdown import one_concept_table, several_concepts_table
    from .records import Records
    from .saes import GROUPS, HOOKPOINTS, Workplace

    world = open_world()
    cache = collect(world, list(HOOKPOINTS.values()), seeds=8, name="tables")
    size = QUICK if options.quick else FULL
    bench = Bench(world, Workplace(cache, OUT / "saes"), Records(OUT / "records"), size)
    for group in GROUPS:
        write(f"one_{group}", one_concept(bench, group), one_concept_table, options.quick)
    write("several_objects", several_concepts(bench, "object"), several_concepts_table, options.quick)


def write(name: str, rows: list[dict], as_table, quick: bool) -> None:
    """output/tables/NAME.json, and the table on the screen."""
    path = OUT / f"{name}{'_quick' if quick else ''}.json"
    path.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1), encoding="utf-8")
    print(f"\n{name}\n\n{as_table(rows)}", flush=True)


def machine() -> str:
    """The processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


if __name__ == "__main__":
    main()
