"""Measures the papers' tables on ShapeCanvas, every method in one run, into output/tables.

PYTHONPATH=tests .venv/bin/python -m tables                  all of it
PYTHONPATH=tests .venv/bin/python -m tables --quick          a smaller version of the same layout
PYTHONPATH=tests .venv/bin/python -m tables one_object ...   some of the tables

What was measured is kept, so a run that was stopped goes on where it was, and two may run at once for different tables.
Another world has another folder; after a change to the edit or to the training delete the folder.

With SHAPECANVAS=alike it is the world whose objects are more alike (shapecanvas/worlds.py), and all are ALIKE_TABLES.
"""

import argparse
import hashlib
import json
import platform
from pathlib import Path

from checkout import ROOT
from comfy_process import become_comfyui, load_pack, load_small_world
from shapecanvas.worlds import ALIKE, BASE, CHECKPOINT

OUT = ROOT / "output" / "tables"
ONLY_ALIKE = ("several_objects_shared_setting",)
"""Made in that world alone if no table is named."""
ALIKE_TABLES = ("one_object", "several_objects", *ONLY_ALIKE)
"""Those that tell how well objects are told apart."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="if none is named, all of this world")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()

    BASE.mkdir(exist_ok=True)
    become_comfyui(BASE)
    load_small_world()
    load_pack(BASE)
    from shapecanvas.collect import collect
    from shapecanvas.world import open_world

    from .all_tables import PICTURES, TABLES
    from .bench import FULL, QUICK, Bench
    from .pictures import SAMPLING
    from .records import Records
    from .saes import DRAWN_HOOKPOINT, HOOKPOINTS, Workplace

    unknown = [name for name in options.tables if name not in TABLES]
    if unknown:
        parser.error(f"There is no table {', '.join(unknown)}; there are {', '.join(TABLES)}.")
    world = open_world()
    world_id = hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()[:12]
    size, suffix = (QUICK, "_quick") if options.quick else (FULL, "")
    suffix += "_alike" if ALIKE else ""
    kept = OUT / f"{world_id}{suffix}"
    caches = [
        collect(world, hookpoints, size.collected, f"tables_{world_id}_{branch}{suffix}", branch, **SAMPLING)
        for branch, hookpoints in (("cond", [*HOOKPOINTS.values()]), ("both", [*HOOKPOINTS.values(), DRAWN_HOOKPOINT]))
    ]
    bench = Bench(world, Workplace(*caches, kept / "saes", size.lengths), Records(kept / "records"), size)
    usual = ALIKE_TABLES if ALIKE else [name for name in TABLES if name not in ONLY_ALIKE]
    for name in options.tables or usual:
        found, table = TABLES[name](bench)
        path = OUT / f"{name}{suffix}.json"
        path.write_text(json.dumps({"machine": machine(), "found": found}, indent=1), encoding="utf-8")
        path.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
        if name in PICTURES:
            PICTURES[name](found).savefig(path.with_suffix(".png"))
        print(f"\n{name}\n\n{table}", flush=True)


def machine() -> str:
    """The processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


if __name__ == "__main__":
    main()
