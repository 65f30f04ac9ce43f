"""One HTML page with pictures about the SAEs that a training has made."""

import html
import io
import math
from pathlib import Path

import torch

from .finish import Made
from .page import write_html


def write_report(page: Path, made: list[Made]) -> str:
    """Writes the page; returns a line that says where it is, or how to get it if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return "No pictures of this training were made. For those: pip install matplotlib"
    parts = [_about(sae) for sae in made]
    write_html(page, "SAE training", "".join(parts))
    return f"Pictures of the training: {page}"


def _about(sae: Made) -> str:
    header, seen = sae.header, sae.measurement
    names = [concept.name for concept in header.concepts][-len(seen.accuracy) :]
    drawn = [name.replace("$", r"\$") for name in names]  # matplotlib would take it for mathematics
    facts = {
        "hookpoint": f"{header.hookpoint} of {header.model_family}",
        "latents": f"{header.autoencoder.n_latents}, {header.autoencoder.activation}, k = {header.autoencoder.k}",
        "FVU": f"{seen.overall_fvu:.4f}",
        "L0": f"{seen.overall_l0:.1f}",
        "latents that never fired": f"{seen.never_fired}",
        "mean accuracy": f"{seen.accuracy.mean():.4f}",
    }
    own = torch.eye(len(names), dtype=torch.bool)
    fires, is_seen = torch.where(own, seen.firing, seen.stray), torch.where(own, seen.detected, seen.mistaken)
    rows = "".join(f"<tr><td>{name}<td>{html.escape(value)}" for name, value in facts.items())
    figures = [
        ("While training", "Lines: training batches; dots: images held out.", _curves(sae)),
        ("Over noise levels", "How much is left unexplained, and how many latents fire.", _over_sigma(sae)),
        (
            "Is it one to one?",
            "How strongly each concept's latent (column) fires in pictures of another concept (row) without its own; 1 "
            "is its own. Grey: there are no such pictures.",
            _matrix(drawn, fires / fires.diagonal().clamp(min=1e-9)),
        ),
        (
            "What is taken for what",
            "Share of pictures that show a concept (row) and not another one in which the other's (column) logit is "
            "positive. On the diagonal it is the concept's own. Grey: there are no such pictures.",
            _matrix(drawn, is_seen),
        ),
        (
            "Separation",
            "Mean logit with the concept minus without, in standard deviations: below 2 it is hard to tell.",
            _separation(drawn, seen.separation),
        ),
    ]
    shown = "".join(_shown(*figure) for figure in figures)
    return (
        f"<h1>{html.escape(sae.out.name)}</h1><p>All numbers are from images held out.</p><table>{rows}</table>"
        f"<div class=figures>{shown}</div>{_table(names, sae)}"
    )


def _shown(title: str, text: str, figure: str) -> str:
    named = figure.replace("<svg", f'<svg role=img aria-label="{title}"', 1)
    return f"<div><h3>{title}</h3><p>{text}</p>{named}</div>"


def _table(names: list[str], sae: Made) -> str:
    seen = sae.measurement
    others = seen.mistaken.nan_to_num()  # also of the diagonal
    rows = []
    for index, (name, concept) in enumerate(zip(names, sae.header.concepts[-len(names) :], strict=True)):
        worst = int(others[:, index].argmax())
        numbers = (f"{seen.accuracy[index]:.4f}", f"{seen.separation[index]:.1f}", f"{concept.multiplier:.2f}")
        cells = "".join(f"<td class=number>{number}" for number in numbers)
        share = 100 * float(others[worst, index])
        confused = f"{html.escape(names[worst])} ({share:.1f} %)" if share else "none"
        rows.append(f"<tr><td>{html.escape(concept.group)}<td>{html.escape(name)}{cells}<td>{confused}")
    head = "<tr><th>group<th>concept<th class=number>accuracy<th class=number>separation<th class=number>multiplier"
    return f"<h3>Concepts</h3><table>{head}<th>wrongly seen in{''.join(rows)}</table>"


def _figure(width: float = 6.4, height: float = 3.4):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _curves(sae: Made) -> str:
    phases = list(dict.fromkeys(entry["phase"] for entry in sae.track.history))
    figure = _figure()
    for axes, phase in zip(figure.subplots(1, max(1, len(phases)), squeeze=False)[0], phases, strict=False):
        entries = [entry for entry in sae.track.history if entry["phase"] == phase]
        steps = [entry["step"] for entry in entries]
        for index, name in enumerate(name for name in ("fvu", "accuracy") if any(name in entry for entry in entries)):
            trained = [entry.get(name, math.nan) for entry in entries]
            axes.plot(steps, trained, color=f"C{index}", label=name.replace("fvu", "FVU"))
            judged = [entry["validation"].get(name, math.nan) for entry in entries]
            axes.plot(steps, judged, "o", color=f"C{index}", markersize=3)
        axes.set(title=phase, xlabel="step", ylim=(0, None))
        axes.legend(frameon=False)
    return _svg(figure)


def _over_sigma(sae: Made) -> str:
    seen = sae.measurement
    figure = _figure()
    for axes, values, name in zip(figure.subplots(1, 2), (seen.fvu, seen.l0), ("FVU", "L0"), strict=True):
        axes.plot(seen.sigmas, values, "o-", markersize=3)
        axes.set(title=name, xlabel="sigma", ylim=(0, None))
        if len(seen.sigmas) > 1:
            axes.set_xscale("log")
    return _svg(figure)


def _matrix(names: list[str], values: torch.Tensor) -> str:
    size = max(3.4, 0.26 * len(names) + 1.2)
    figure = _figure(size + 0.8, size)
    axes = figure.subplots()
    axes.set_facecolor("lightgrey")  # seen where there is no number
    picture = axes.imshow(values, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    figure.colorbar(picture)
    return _svg(figure)


def _separation(names: list[str], values: torch.Tensor) -> str:
    figure = _figure(6.4, max(2.0, 0.24 * len(names) + 0.8))
    axes = figure.subplots()
    axes.barh(range(len(names)), values)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(2, color="grey", linestyle=":")
    return _svg(figure)
