"""Draws curves with what ComfyUI brings."""

from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFont

HEIGHT, WIDTH = 240, 320
"""Of one panel, in pixels."""
MARGIN = 36
INK, LINE = (60, 66, 80), (31, 119, 180)


@dataclass
class Curve:
    """One panel: values over steps."""

    title: str
    steps: int
    """Where the horizontal axis ends."""
    points: list[tuple[int, float]] = field(default_factory=list)


def draw_curves(curves: list[Curve]) -> Image.Image:
    """Panels beside one another, each from 0 to its largest value."""
    image = Image.new("RGB", (WIDTH * max(1, len(curves)), HEIGHT), "white")
    for index, curve in enumerate(curves):
        _draw_panel(ImageDraw.Draw(image), WIDTH * index, curve)
    return image


def _draw_panel(draw: ImageDraw.ImageDraw, left: int, curve: Curve) -> None:
    font = ImageFont.load_default()
    x0, y0, x1, y1 = left + MARGIN, MARGIN, left + WIDTH - MARGIN // 2, HEIGHT - MARGIN
    top = max((value for _, value in curve.points), default=0.0) or 1.0
    draw.line([(x0, y0), (x0, y1), (x1, y1)], fill=INK)
    last = f": {curve.points[-1][1]:.4g}" if curve.points else ""
    draw.text((x0, y0 - 18), curve.title + last, fill=INK, font=font)
    draw.text((left + 4, y0), f"{top:.2g}", fill=INK, font=font)
    draw.text((left + 24, y1 - 6), "0", fill=INK, font=font)
    draw.text((x1 - 56, y1 + 6), f"{curve.steps} steps", fill=INK, font=font)
    places = [
        (x0 + (x1 - x0) * step / max(1, curve.steps), y1 - (y1 - y0) * max(0.0, value) / top)
        for step, value in curve.points
    ]
    if len(places) > 1:
        draw.line(places, fill=LINE, width=2)
    for x, y in places[-1:]:
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=LINE)
