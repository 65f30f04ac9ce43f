"""The table and the picture of what Locate Concept has measured."""

from PIL import Image, ImageDraw, ImageFont

from .locate_results import Exchanged
from .locating import ENOUGH, Located

CELL_WIDTH, ROW, MARGIN = 148, 34, 20
PALE, DARK, MARK, INK = (247, 251, 255), (8, 69, 148), (230, 100, 20), (30, 30, 30)
LEGEND = (
    "Number and blue: the concept moves along, % of pictures.  Orange bar: share of pictures like neither original."
)

RELIABLE = 0.9
"""The model must tell so many of the originals right to be a judge."""
TOO_BROKEN = 0.5
"""Where more of the pictures are broken, it says little how many have moved."""


def table(located: Located, pictures: int, recognised: float) -> str:
    """Markdown. recognised: share of the originals, of which there are `pictures`, that the model tells right."""
    first = located.alone[0]
    heads = " | ".join(f"{m.when}, sigma {_sigmas(m)}" for m in first)
    lines = [
        f"How often the concept moves along / the picture is broken, in % of {pictures} pictures. Of the originals the "
        f"model tells {100 * recognised:.0f} % right.",
        "",
        f"| exchanged | {heads} |",
        "|---" * (len(first) + 1) + "|",
    ]
    for row in located.alone:
        lines.append(f"| {row[0].hookpoints[0]} | " + " | ".join(_cell(m) for m in row) + " |")
    lines += ["", f"| exchanged together, {located.together.when} | |", "|---|---|"]
    for best in located.best:
        lines.append(f"| {' + '.join(best.hookpoints)} | {_cell(best)} |")
    lines += [f"| all {len(located.together.hookpoints)} | {_cell(located.together)} |", "", verdict(located)]
    if recognised < RELIABLE:
        lines += ["", "The model can hardly tell the originals apart: do not rely on this. Choose clearer pairs."]
    return "\n".join(lines)


def verdict(located: Located) -> str:
    """Which blocks the concept cannot slip past, if any, or that broken pictures hide it."""
    chosen = located.chosen
    names, moved = " + ".join(chosen.hookpoints), chosen.moved
    if moved.whole >= ENOUGH:
        blocks = "one block" if len(chosen.hookpoints) == 1 else f"these {len(chosen.hookpoints)} blocks together"
        return f"The concept cannot slip past {blocks}: {names} ({100 * moved.share:.0f} %)."
    if moved.share >= ENOUGH or moved.broken > TOO_BROKEN:
        return (
            f"This cannot tell whether the concept slips past the best that was tried, {names}: it moves along in "
            f"{100 * moved.share:.0f} %, but {100 * moved.broken:.0f} % of the pictures are broken. Choose other "
            "hookpoints, or exchange less: residual as hooked, or a shorter range as the first."
        )
    return (
        f"The concept can slip past the best that was tried, {names} ({100 * moved.share:.0f} %); all blocks "
        f"together move it in {100 * located.together.moved.share:.0f} %. Allow larger combinations, or more blocks."
    )


def picture(located: Located) -> Image.Image:
    """A heat map: hookpoints x ranges, and the combinations below."""
    font, small = ImageFont.load_default(18), ImageFont.load_default(14)
    rows = [(row[0].hookpoints[0], row) for row in located.alone]
    sums = [(_added(located.best, place), [best]) for place, best in enumerate(located.best)]
    sums.append((f"all {len(located.together.hookpoints)} together", [located.together]))
    left = MARGIN + int(max(font.getlength(name) for name, _ in rows + sums)) + MARGIN
    columns = len(located.alone[0])
    width = max(left + columns * CELL_WIDTH, MARGIN + int(small.getlength(LEGEND))) + MARGIN
    height = 2 * MARGIN + (len(rows) + len(sums) + 4) * ROW + ROW // 2
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for column, measurement in enumerate(located.alone[0]):
        middle = left + column * CELL_WIDTH + CELL_WIDTH // 2
        draw.text((middle, MARGIN + 10), str(measurement.when), INK, font, anchor="mm")
        draw.text((middle, MARGIN + 34), f"sigma {_sigmas(measurement)}", INK, small, anchor="mm")
    top = MARGIN + 2 * ROW - 10
    for heading, block in (("", rows), (f"exchanged together, {located.together.when}", sums)):
        if heading:
            draw.text((left - 12, top + ROW // 2), heading, INK, small, anchor="rm")
            top += ROW
        for name, measurements in block:
            draw.text((left - 12, top + ROW // 2 - 2), name, INK, font, anchor="rm")
            for column, measurement in enumerate(measurements):
                _draw_cell(draw, left + column * CELL_WIDTH, top, measurement, font)
            top += ROW
        top += ROW // 2
    draw.text((MARGIN, top), LEGEND, INK, small)
    return image


def _draw_cell(draw: ImageDraw.ImageDraw, left: int, top: int, measurement: Exchanged, font) -> None:
    share, broken = measurement.moved.share, measurement.moved.broken
    colour = tuple(round(pale + share * (dark - pale)) for pale, dark in zip(PALE, DARK, strict=True))
    draw.rectangle((left, top, left + CELL_WIDTH - 3, top + ROW - 3), fill=colour)
    ink = "white" if share > 0.67 else INK  # where both contrast alike with the colour
    draw.text((left + CELL_WIDTH // 2, top + ROW // 2 - 2), f"{100 * share:.0f}", ink, font, anchor="mm")
    if broken:
        end = left + round(broken * (CELL_WIDTH - 3))
        draw.rectangle((left, top + ROW - 8, max(end, left + 2), top + ROW - 3), fill=MARK)


def _added(best: tuple[Exchanged, ...], place: int) -> str:
    """The hookpoint that the combination at this place has more than the one before."""
    if place == 0:
        return best[0].hookpoints[0]
    before = best[place - 1].hookpoints
    return "+ " + next(name for name in best[place].hookpoints if name not in before)


def _cell(measurement: Exchanged) -> str:
    return f"{100 * measurement.moved.share:.0f} / {100 * measurement.moved.broken:.0f}"


def _sigmas(measurement: Exchanged) -> str:
    return " to ".join(f"{sigma:.3g}" for sigma in dict.fromkeys(measurement.sigmas))
