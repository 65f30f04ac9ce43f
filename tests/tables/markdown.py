"""Measurements as Markdown tables."""

from collections.abc import Iterable
from statistics import mean, pstdev


def one_concept_table(rows: list[dict]) -> str:
    """Means, and their spread over several seeds."""
    lines = ["| method | settings tried | UA | IRA | CRA | mean | broken |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = [
            f"{row[name]:.1f}" + (f" ± {row[f'{name} spread']:.1f}" if row["seeds"] > 1 else "")
            for name in ("UA", "IRA", "CRA", "mean", "broken")
        ]
        lines.append(f"| {row['method']} | {row['settings tried']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def search_cost_table(rows: list[dict]) -> str:
    """The score reached, in the order of how many settings were tried to reach it."""
    lines = ["| settings tried for a concept | method | (UA + IRA) / 2 | mean of UA, IRA, CRA |", "|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: row["settings tried"]):
        half = (row["UA"] + row["IRA"]) / 2
        lines.append(f"| {row['settings tried']} | {row['method']} | {half:.1f} | {row['mean']:.1f} |")
    return "\n".join(lines)


def several_concepts_table(rows: list[dict]) -> str:
    """UA / retained accuracy, averaged over the orders."""
    counts = sorted({row["concepts"] for row in rows})
    lines = ["| method | " + " | ".join(map(str, counts)) + " |", "|---" * (len(counts) + 1) + "|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = []
        for count in counts:
            own = [row for row in rows if (row["method"], row["concepts"]) == (method, count)]
            cells.append(f"{mean(row['UA'] for row in own):.1f} / {mean(row['kept'] for row in own):.1f}")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shared_setting_table(rows: list[dict]) -> str:
    """Means over the orders."""
    lines = [
        "| method | settings tried | chosen for so many concepts | UA | retained | mean of both |",
        "|---|---|---|---|---|---|",
    ]
    for method, number in dict.fromkeys((row["method"], row["chosen for"]) for row in rows):
        own = [row for row in rows if (row["method"], row["chosen for"]) == (method, number)]
        erased, kept = (mean(row[name] for row in own) for name in ("UA", "kept"))
        numbers = f"{erased:.1f} | {kept:.1f} | {(erased + kept) / 2:.1f}"
        lines.append(f"| {method} | {own[0]['settings tried']} | {number} | {numbers} |")
    return "\n".join(lines)


def over_seeds(values: Iterable[float]) -> str:
    """The mean of a number that was measured with several seeds, and its spread if there are several."""
    measured = list(values)
    return f"{mean(measured):.1f}" + (f" ± {pstdev(measured):.1f}" if len(measured) > 1 else "")
