"""Works on ShapeCanvas in a ComfyUI in this process:

PYTHONPATH=tests .venv/bin/python -m shapecanvas locate      where concepts are decided
PYTHONPATH=tests .venv/bin/python -m shapecanvas collect     the cache for the SAEs, into output/sae_cache
PYTHONPATH=tests .venv/bin/python -m shapecanvas calibrate   how far an SAE turns concepts, by what is drawn
PYTHONPATH=tests .venv/bin/python -m shapecanvas evaluate    the world's pictures, and concepts erased one by one
PYTHONPATH=tests .venv/bin/python -m shapecanvas detect      how well Concept Score tells what is drawn
"""

import argparse

from comfy_process import become_comfyui, load_pack, load_small_world
from shapecanvas.worlds import BASE, WEIGHTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    locate_options = commands.add_parser("locate")
    locate_options.add_argument("--pictures", type=int, default=192)
    collect_options = commands.add_parser("collect")
    collect_options.add_argument("hookpoints", nargs="+")
    collect_options.add_argument("--seeds", type=int, default=8)
    collect_options.add_argument("--name", default="shapecanvas")
    collect_options.add_argument("--branch", default="both", help="halves of guidance to keep: cond, or both")
    calibrate_options = commands.add_parser("calibrate")
    calibrate_options.add_argument("sae", help="file in models/sae")
    evaluate_options = commands.add_parser("evaluate")
    evaluate_options.add_argument("--sae", help="file in models/sae; without it only the world is measured")
    evaluate_options.add_argument("--concepts", nargs="*", default=[])
    evaluate_options.add_argument("--strength", type=float, default=1.0)
    evaluate_options.add_argument("--mode", default="turn")
    evaluate_options.add_argument("--seeds", type=int, default=10, help="pictures of each of the 96 pairs")
    detect_options = commands.add_parser("detect")
    detect_options.add_argument("sae", help="file in models/sae")
    detect_options.add_argument("--seeds", type=int, default=4, help="pictures of each of the 96 pairs")
    detect_options.add_argument("--cfg", type=float, default=3.0)
    detect_options.add_argument("--threshold", type=float, help="Concept Score's own, if not given")
    options = parser.parse_args()

    BASE.mkdir(exist_ok=True)
    become_comfyui(BASE)
    load_small_world()
    load_pack(BASE)
    from .calibrate import calibrate
    from .collect import collect
    from .detect import detect
    from .evaluate import evaluate_erasing, evaluate_world
    from .locate import locate
    from .world import open_world

    world = open_world()
    if options.command == "locate":
        print(locate(world, options.pictures))
    elif options.command == "collect":
        print(collect(world, options.hookpoints, options.seeds, options.name, options.branch))
    elif options.command == "calibrate":
        calibrate(world, WEIGHTS / options.sae)
    elif options.command == "detect":
        print("| concept | found | mistaken |\n|---|---|---|")
        for name, row in detect(world, options.sae, options.seeds, options.threshold, cfg=options.cfg).items():
            print(f"| {name} | {row.found:.1f} | {row.mistaken:.1f} |")
    elif options.sae is None:
        print(evaluate_world(world, options.seeds))
    else:
        print("| erased | UA | IRA | CRA | least kept |\n|---|---|---|---|---|")
        for concept in options.concepts:
            settings = {"strength": options.strength, "mode": options.mode}
            row = evaluate_erasing(world, options.sae, concept, options.seeds, **settings)
            scores = " | ".join(f"{row[name]:.1f}" for name in ("UA", "IRA", "CRA"))
            print(f"| {concept} | {scores} | {row['worst']} {row['worst_kept']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
