"""How well several concepts are erased at once, drawn over their number."""

from statistics import mean

from matplotlib.figure import Figure

AXES = {"UA": "erased concepts that are gone (UA), %", "kept": "what is kept of all others, %"}


def curves(rows: list[dict]) -> Figure:
    """rows: what several_concepts found. Means over the orders; a bar from the lowest to the highest of them."""
    figure = Figure(figsize=(9, 3.6), dpi=120, layout="constrained")
    counts = sorted({row["concepts"] for row in rows})
    for axes, (name, label) in zip(figure.subplots(1, 2), AXES.items(), strict=True):
        for method in dict.fromkeys(row["method"] for row in rows):
            found = [
                [row[name] for row in rows if (row["method"], row["concepts"]) == (method, count)] for count in counts
            ]
            middle = [mean(values) for values in found]
            spread = [[m - min(v) for m, v in zip(middle, found, strict=True)]]
            spread += [[max(v) - m for m, v in zip(middle, found, strict=True)]]
            ours = method.startswith("SAE Eraser")
            axes.errorbar(counts, middle, spread, label=method, marker="o", capsize=3, linewidth=2.5 if ours else 1.2)
        axes.set(xlabel="objects erased at once", ylabel=label, xticks=counts, ylim=(0, 102))
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure
