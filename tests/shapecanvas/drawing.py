"""Draws ShapeCanvas pictures with Pillow: one object in one style; position, size, angle and colours at random."""

import colorsys
import math

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from .concepts import SHAPES

SIZE = 64
SCALE = 4  # drawn four times larger, then averaged down
CANVAS = SIZE * SCALE


def _arc(centre_x, centre_y, radius, start, stop, points=48):
    """Points on a circle, angles in degrees, y downwards."""
    angles = np.radians(np.linspace(start, stop, points))
    return np.stack([centre_x + radius * np.cos(angles), centre_y + radius * np.sin(angles)], axis=1)


def _regular(corners, first_angle=-90.0, radius=1.0):
    return _arc(0, 0, radius, first_angle, first_angle + 360 * (corners - 1) / corners, corners)


def _star():
    tips, notches = _regular(5), _regular(5, first_angle=-54, radius=0.42)
    return np.stack([tips, notches], axis=1).reshape(10, 2)


def _heart():
    t = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x / 17, -(y + 2.5) / 17], axis=1)


def _crescent():
    # The arc of the outer circle that the inner one (centre 0.45, radius 0.8) leaves, then back along the inner one.
    outer = _arc(-0.05, 0, 1.0, 52, 308)
    centre_x, radius = 0.45, 0.805
    first = math.degrees(math.atan2(outer[-1, 1], outer[-1, 0] - centre_x)) % 360
    last = math.degrees(math.atan2(outer[0, 1], outer[0, 0] - centre_x)) % 360
    return np.concatenate([outer, _arc(centre_x, 0, radius, first, last)])


def _points(*pairs):
    return np.array(pairs, dtype=float)


# Every object is an outline followed by its holes, within the unit circle, y downwards.
CONTOURS = {
    "circle": [_arc(0, 0, 0.95, 0, 360)],
    "square": [_points((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8))],
    "triangle": [_points((0, -0.95), (0.98, 0.75), (-0.98, 0.75))],
    "star": [_star()],
    "heart": [_heart()],
    "cross": [
        _points(
            (-0.32, -0.95), (0.32, -0.95), (0.32, -0.32), (0.95, -0.32), (0.95, 0.32), (0.32, 0.32),
            (0.32, 0.95), (-0.32, 0.95), (-0.32, 0.32), (-0.95, 0.32), (-0.95, -0.32), (-0.32, -0.32),
        )
    ],
    "crescent": [_crescent()],
    "ring": [_arc(0, 0, 0.98, 0, 360), _arc(0, 0, 0.5, 0, 360)],
    "arrow": [
        _points((-1, -0.28), (0.1, -0.28), (0.1, -0.75), (1, 0), (0.1, 0.75), (0.1, 0.28), (-1, 0.28))
    ],
    "diamond": [_points((0, -1), (0.62, 0), (0, 1), (-0.62, 0))],
    "tree": [
        _points(
            (0, -1), (0.5, -0.35), (0.25, -0.35), (0.75, 0.45), (0.15, 0.45), (0.15, 0.95),
            (-0.15, 0.95), (-0.15, 0.45), (-0.75, 0.45), (-0.25, -0.35), (-0.5, -0.35),
        )
    ],
    "house": [
        _points((0, -0.95), (0.95, -0.1), (0.7, -0.1), (0.7, 0.85), (-0.7, 0.85), (-0.7, -0.1), (-0.95, -0.1)),
        _points((-0.2, 0.85), (-0.2, 0.25), (0.2, 0.25), (0.2, 0.85)),
    ],
}  # fmt: skip


def _without_sector(contour, end):
    """What is left of the contour when all right of the middle is cut off, from the top down to `end` degrees."""
    steps = np.linspace(0, 1, 40, endpoint=False)[:, None]
    points = np.concatenate([a + (b - a) * steps for a, b in zip(contour, np.roll(contour, -1, axis=0), strict=True)])
    angles = np.degrees(np.arctan2(points[:, 1], points[:, 0])) % 360  # y is downwards, so 270 is the top
    kept = (angles >= end) & (angles <= 270)
    return np.concatenate([points[kept][np.argsort(angles[kept], kind="stable")], [[0.0, 0.0]]])


FORMS = {
    "solid": lambda contour: [contour],
    "hollow": lambda contour: [contour, contour * 0.5],
    "notched": lambda contour: [_without_sector(contour, 0)],
    "halved": lambda contour: [_without_sector(contour, 90)],
}
CONTOURS |= {f"{form} {shape}": cut(CONTOURS[shape][0]) for shape in SHAPES for form, cut in FORMS.items()}


def _place(contours, rng):
    """Turns the contours by up to 8 degrees and puts them at a random place and size on the canvas."""
    radius = CANVAS * rng.uniform(0.28, 0.40)
    room = CANVAS / 2 - radius - 5 * SCALE
    centre = CANVAS / 2 + rng.uniform(-1, 1, size=2) * room
    angle = math.radians(rng.uniform(-8, 8))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return [contour @ turn * radius + centre for contour in contours]


def _fill(contours):
    mask = Image.new("L", (CANVAS, CANVAS), 0)
    pen = ImageDraw.Draw(mask)
    for index, contour in enumerate(contours):
        pen.polygon([tuple(point) for point in contour], fill=0 if index else 255)
    return mask


def _stroke(contours, width):
    """The contours as lines, width in final pixels."""
    mask = Image.new("L", (CANVAS, CANVAS), 0)
    pen = ImageDraw.Draw(mask)
    for contour in contours:
        line = [tuple(point) for point in (*contour, contour[0], contour[1])]
        pen.line(line, fill=255, width=round(width * SCALE), joint="curve")
    return mask


def _colour(rng, saturation, value):
    red, green, blue = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))
    return round(red * 255), round(green * 255), round(blue * 255)


def _sheet(colour):
    return Image.new("RGB", (CANVAS, CANVAS), colour)


def _grid():
    return np.meshgrid(np.arange(CANVAS), np.arange(CANVAS))


def _pattern(values):
    return Image.fromarray((np.clip(values, 0, 1) * 255).astype(np.uint8), "L")


def _plain(contours, rng):
    page = _sheet(_colour(rng, (0.08, 0.16), (0.93, 1.0)))
    page.paste(_colour(rng, (0.65, 0.95), (0.65, 0.95)), mask=_fill(contours))
    return page


def _outline(contours, rng):
    page = _sheet((252, 252, 252))
    page.paste((15, 15, 15), mask=_stroke(contours, 3))
    return page


def _stripes(contours, rng):
    x, y = _grid()
    period = 8 * SCALE
    bars = _pattern((((x + y) / math.sqrt(2) + rng.uniform() * period) % period < 0.58 * period).astype(float))
    page, mask = _sheet(_colour(rng, (0.16, 0.26), (0.86, 0.94))), _fill(contours)
    page.paste((255, 255, 255), mask=mask)
    page.paste(_colour(rng, (0.65, 0.95), (0.55, 0.85)), mask=ImageChops.multiply(mask, bars))
    return page


def _dots(contours, rng):
    x, y = _grid()
    period = 8 * SCALE
    shift_x, shift_y = rng.uniform(size=2) * period
    distance = np.hypot((x + shift_x) % period - period / 2, (y + shift_y) % period - period / 2)
    spots = _pattern((distance < 0.32 * period).astype(float))
    page, mask = _sheet((236, 232, 200)), _fill(contours)
    page.paste((28, 30, 72), mask=mask)
    page.paste(_colour(rng, (0.7, 1.0), (0.8, 1.0)), mask=ImageChops.multiply(mask, spots))
    return page


def _neon(contours, rng):
    colour = _colour(rng, (0.8, 1.0), (0.9, 1.0))
    page = _sheet((0, 0, 0))
    page.paste(tuple(c // 2 for c in colour), mask=_fill(contours))
    glow = _stroke(contours, 5).filter(ImageFilter.GaussianBlur(2.2 * SCALE))
    page.paste(colour, mask=glow.point(lambda v: min(255, int(1.5 * v))))
    page.paste((255, 255, 255), mask=_stroke(contours, 1.8))
    return page


def _gradient(contours, rng):
    first, last = (np.array(_colour(rng, (0.8, 1.0), (0.75, 1.0))) for _ in range(2))
    ramp = np.linspace(0, 1, CANVAS)[:, None, None]
    fill = np.broadcast_to(first * (1 - ramp) + last * ramp, (CANVAS, CANVAS, 3))
    page = _sheet((128, 128, 128))
    page.paste(Image.fromarray(fill.astype(np.uint8)), mask=_fill(contours))
    return page


def _mosaic(contours, rng):
    page = _plain(contours, rng)
    cells = SIZE // 4
    small = np.asarray(page.resize((cells, cells), Image.Resampling.BOX), dtype=float)
    noisy = np.clip(small + rng.normal(0, 26, small.shape), 0, 255).astype(np.uint8)
    return Image.fromarray(noisy).resize((CANVAS, CANVAS), Image.Resampling.NEAREST)


def _sketch(contours, rng):
    x, y = _grid()
    period = 5 * SCALE
    hatch = np.maximum(((x + y) % period) < 0.3 * period, ((x - y) % period) < 0.3 * period)
    page = _sheet((240, 240, 240))
    page.paste((110, 110, 110), mask=ImageChops.multiply(_fill(contours), _pattern(hatch.astype(float))))
    page.paste((70, 70, 70), mask=_stroke(contours, 1.6))
    return page


PAINTERS = {
    "plain": _plain,
    "outline": _outline,
    "stripes": _stripes,
    "dots": _dots,
    "neon": _neon,
    "gradient": _gradient,
    "mosaic": _mosaic,
    "sketch": _sketch,
}


def draw(object_name: str, style: str, seed: int) -> np.ndarray:
    """One picture as uint8 [64, 64, 3]; the same seed gives the same picture."""
    rng = np.random.default_rng(seed)
    page = PAINTERS[style](_place(CONTOURS[object_name], rng), rng)
    return np.asarray(page.reduce(SCALE))
