"""Draws maps of activations: a colour map, an overlay on pictures, and a strip over the steps."""

import math

import torch
from torch.nn import functional as F

CELL, GAP, COLUMNS, CHART = 112, 6, 8, 72
"""Sizes of the strip, in pixels, and how many maps it shows."""
PAPER, BAR, USUAL = 0.1, (0.55, 0.62, 0.75), (1.0, 1.0, 1.0)


def intensity(relative: torch.Tensor) -> torch.Tensor:
    """Activations relative to those in pictures with the concept, at least 0 -> 0 to 1, the same in every picture."""
    return 1 - torch.exp(-relative)


def colours(values: torch.Tensor) -> torch.Tensor:
    """0 to 1, [...] -> sRGB [..., 3] in 0 to 1: dark violet over red and orange to pale yellow.

    Lightness grows evenly in Oklab, so that equal steps look equal (Björn Ottosson, "A perceptual color space for image
    processing", 2020).
    """
    values = values.clamp(0, 1)
    lightness = 0.22 + 0.74 * values
    hue = (-70 + 170 * values) * math.pi / 180
    chroma = 0.03 + 0.15 * torch.sin(math.pi * (0.1 + 0.8 * values))
    return _oklab_to_srgb(lightness, chroma * hue.cos(), chroma * hue.sin())


def overlay(images: torch.Tensor, heat: torch.Tensor) -> torch.Tensor:
    """Pictures [images, height, width, 3] under the colours of heat [images, height, width], clear where it is 0."""
    cover = (1.5 * heat).clamp(0, 0.85)[..., None]
    grey = images.mean(dim=3, keepdim=True) * 0.6
    return torch.lerp(torch.lerp(images, grey.expand_as(images), 0.5), colours(heat), cover).clamp(0, 1)


def enlarge(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Maps [maps, height, width] -> [maps, *size], smooth."""
    return F.interpolate(maps[:, None].float(), size, mode="bilinear")[:, 0]


def strip(maps: torch.Tensor, usual: torch.Tensor, shown: list[int]) -> torch.Tensor:
    """One picture [height, width, 3]: the maps of the steps `shown` beside one another, and a bar for every step below.

    maps: relative activations [steps, height, width]. usual: the mean of such maps in pictures with the concept,
    [steps], a white line over every bar.
    """
    cell = max(24, round(CELL * maps.shape[1] / maps.shape[2]))
    width = len(shown) * (CELL + GAP) + GAP
    picture = torch.full((GAP + cell + GAP + CHART + GAP, width, 3), PAPER)
    enlarged = F.interpolate(intensity(maps[shown])[:, None], (cell, CELL), mode="nearest-exact")[:, 0]
    for place, drawn in enumerate(colours(enlarged)):
        left = GAP + place * (CELL + GAP)
        picture[GAP : GAP + cell, left : left + CELL] = drawn
    _bars(picture[GAP + cell + GAP : -GAP, GAP:-GAP], maps.mean(dim=(1, 2)), usual)
    return picture


def _bars(area: torch.Tensor, means: torch.Tensor, usual: torch.Tensor) -> None:
    """Draws into the area [height, width, 3]; its top is the largest of both."""
    height, width = area.shape[:2]
    top = torch.cat([means, usual]).amax().clamp(min=1e-12)
    for step, (mean, common) in enumerate(zip((means / top).tolist(), (usual / top).tolist(), strict=True)):
        left, right = round(step * width / len(means)), round((step + 1) * width / len(means))
        right = max(left + 1, right - 2)
        area[height - max(1, round(mean * height)) :, left:right] = torch.tensor(BAR)
        line = min(height - 2, height - round(common * height))
        area[line : line + 2, left:right] = torch.tensor(USUAL)


def _oklab_to_srgb(lightness: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    l_ = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    m_ = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    s_ = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = torch.stack(
        [
            4.0767416621 * l_ - 3.3077115913 * m_ + 0.2309699292 * s_,
            -1.2684380046 * l_ + 2.6097574011 * m_ - 0.3413193965 * s_,
            -0.0041960863 * l_ - 0.7034186147 * m_ + 1.7076147010 * s_,
        ],
        dim=-1,
    ).clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
