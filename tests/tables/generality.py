"""Does the same SAE with the same strength erase under other settings than those it was made and chosen with?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean

from shapecanvas.concepts import OBJECTS
from shapecanvas.world import World

from . import lora
from .chosen import ChosenMethod
from .markdown import over_seeds
from .pictures import SEED_STEP, Judged, Wanted, scores, wanted
from .records import Records
from .saes import Workplace
from .starts import draw_by

FIRST_SEED = 7_000_000


@dataclass(frozen=True)
class Setting:
    """One way to sample."""

    sampling: dict = field(default_factory=dict)
    """What differs from pictures.SAMPLING."""
    lora: bool = False
    lora_style: bool = False
    """Whether prompts ask for the LoRA's style, of which the judge knows nothing: CRA says nothing then."""


SETTINGS = {
    "euler, 25 steps, cfg 9": Setting(),
    "heun": Setting({"sampler_name": "heun"}),
    "dpmpp_2m, karras": Setting({"sampler_name": "dpmpp_2m", "scheduler": "karras"}),
    "8 steps": Setting({"steps": 8}),
    "lcm, 8 steps, cfg 1.5": Setting({"sampler_name": "lcm", "steps": 8, "cfg": 1.5}),
    "100 steps": Setting({"steps": 100}),
    "cfg 1": Setting({"cfg": 1.0}),
    "cfg 2": Setting({"cfg": 2.0}),
    "cfg 3": Setting({"cfg": 3.0}),
    "cfg 6": Setting({"cfg": 6.0}),
    "cfg 12": Setting({"cfg": 12.0}),
    "96 x 64": Setting({"width": 96}),
    "64 x 96": Setting({"height": 96}),
    "a LoRA": Setting(lora=True),
    "a LoRA, its style": Setting(lora=True, lora_style=True),
}


def measure(
    world: World,
    place: Workplace,
    records: Records,
    methods: Sequence[ChosenMethod],
    concepts: Sequence[str],
    pictures: tuple[int, int] = (2, 24),
    settings: Sequence[str] = (),
    lora_steps: int = 300,
    seed: int = 0,
) -> dict:
    """{setting: {method: {concept: scores}}}; settings: only these. The LoRA is trained if it is not there.

    pictures: of every pair that asks for the concept, and of other pairs.
    seed: that of the methods' SAEs; pictures follow it, the LoRA is the same for all. To be read against the method
    that erases nothing: what is broken under a setting without erasing was not broken by erasing.
    """
    found: dict = {}
    for name in settings or SETTINGS:
        setting = SETTINGS[name]
        for method in methods:
            for concept in concepts:
                if setting.lora_style and concept not in OBJECTS:
                    continue
                key = {"table": "generality", "setting": name, "method": method.name, "concept": concept}
                size = {"pictures": list(pictures), **({"lora_steps": lora_steps} if setting.lora else {})}
                chosen = wanted([concept], *pictures, FIRST_SEED + SEED_STEP * seed)

                def drawn(setting=setting, method=method, concept=concept, chosen=chosen) -> Judged:
                    return _drawn(world, place, method, concept, chosen, setting, lora_steps)

                judged = records.get({**key, **size, "sae_seed": seed}, drawn)
                row = scores(judged, [concept])
                if setting.lora_style:
                    del row["CRA"]
                found.setdefault(name, {}).setdefault(method.name, {})[concept] = row
    return found


def markdown(found: Sequence[dict]) -> str:
    """found: what was measured with each seed. A row for each setting, UA / IRA / CRA of each method."""
    methods = list(next(iter(found[0].values())))
    lines = ["| UA / IRA / CRA | " + " | ".join(methods) + " |", "|---|" + "---|" * len(methods)]
    for setting in found[0]:
        cells = [_cell([list(of_seed[setting][method].values()) for of_seed in found]) for method in methods]
        lines.append(f"| {setting} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _drawn(
    world: World,
    place: Workplace,
    method: ChosenMethod,
    concept: str,
    pictures: Wanted,
    setting: Setting,
    lora_steps: int,
) -> Judged:
    prompts = [lora.prompt(OBJECTS[o]) for o, _ in pictures.pairs] if setting.lora_style else None
    if not setting.lora:
        return draw_by(world, method, [concept], pictures, prompts, **setting.sampling)
    path = place.folder / f"lora_{lora_steps}.safetensors"
    if not path.exists():
        lora.train_lora(world, path, lora_steps)

    def patches(model):
        return lora.with_lora(model, path)

    return draw_by(world, method, [concept], pictures, prompts, with_patches=patches, **setting.sampling)


def _cell(rows: list[list[dict[str, float]]]) -> str:
    """rows: of each seed a row for each concept."""
    names = [name for name in ("UA", "IRA", "CRA") if name in rows[0][0]]
    cells = [over_seeds(mean(row[name] for row in of_seed) for of_seed in rows) for name in names]
    return " / ".join(cells + ["-"] * (3 - len(names)))
