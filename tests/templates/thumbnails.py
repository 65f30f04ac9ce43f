"""The pictures that the template browser shows."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from demo import pictures, strip

SIDE = 512
STEPS = ("Collect activations", "Train an SAE", "Erase a concept")
PAPER, INK, DIM, ACCENT = "#16181d", "#f2f2f2", "#8d93a1", "#f5b942"


def of_pictures(workflow: dict, saved: Path) -> Image.Image:
    """Two pictures of each of the workflow's first two nodes that save: the original ones above the others."""
    prefixes = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "SaveImage"]
    rows = [strip(pictures(saved, prefix)[:2]) for prefix in prefixes[:2]]
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for index, row in enumerate(rows):
        sheet.paste(row, (0, index * row.height))
    return sheet.resize((SIDE, SIDE * sheet.height // sheet.width), Image.Resampling.LANCZOS)


def of_steps(model: str) -> Image.Image:
    """A card with the model's name, for a template whose pictures cannot be made here."""
    card = Image.new("RGB", (SIDE, SIDE), PAPER)
    pen = ImageDraw.Draw(card)
    pen.text((48, 44), model, INK, ImageFont.load_default(92))
    pen.line((52, 170, SIDE - 52, 170), DIM, 2)
    for number, step in enumerate(STEPS, start=1):
        y = 150 + 90 * number
        pen.ellipse((48, y - 26, 100, y + 26), outline=ACCENT, width=3)
        pen.text((74, y), str(number), ACCENT, ImageFont.load_default(28), anchor="mm")
        pen.text((126, y), step, INK, ImageFont.load_default(34), anchor="lm")
    return card
