"""make demo: a real ComfyUI runs the template "Erase one concept" through comfy-cli; pictures before and after.

Leaves in output/demo/ grid.jpg (rows: prompts; left the original, right the erased pictures of the same seeds) and
verdicts.md (what the classifier sees in them).
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from checkout import ROOT
from comfy_server import Server, running_server
from shapecanvas.classifier import classify, load_classifier
from shapecanvas.concepts import OBJECTS, STYLES

TEMPLATE = ROOT / "example_workflows" / "Erase one concept.json"
OUT = ROOT / "output" / "demo"
PROMPTS = (
    "a star in neon style",
    "a star in plain style",
    "a star in dots style",
    "a heart in neon style",
    "a tree in plain style",
    "a circle in dots style",
    "a house in sketch style",
)
ZOOM = 1.5


def workflow_for(prompt: str) -> dict:
    """The template with another positive prompt."""
    workflow = json.loads(TEMPLATE.read_text())
    (node,) = (node for node in workflow["nodes"] if node.get("title") == "Prompt")
    node["widgets_values"] = [prompt]
    return workflow


def run(server: Server, workflow: dict) -> None:
    """Runs a workflow to its end with comfy-cli; raises RuntimeError with what it printed if that fails."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(workflow, file)
        file.flush()
        host, port = server.url.removeprefix("http://").split(":")
        command = [Path(sys.executable).with_name("comfy"), "--skip-prompt", "run", "--wait", "--workflow", file.name]
        ended = subprocess.run(
            [*command, "--host", host, "--port", port],
            env={**os.environ, "DO_NOT_TRACK": "1"},
            capture_output=True,
            text=True,
        )
    if ended.returncode:
        raise RuntimeError(f"comfy run failed:\n{ended.stdout}{ended.stderr}\n{server.log[-4000:]}")


def pictures(folder: Path, prefix: str) -> torch.Tensor:
    """The pictures saved under this prefix, oldest first, [n, 64, 64, 3] in 0..1."""
    files = sorted(folder.glob(f"{prefix}_*.png"))
    return torch.stack([torch.from_numpy(np.asarray(Image.open(file).convert("RGB"))) for file in files]).float() / 255


def strip(images: torch.Tensor) -> Image.Image:
    """Pictures side by side, enlarged."""
    row = torch.cat(list(images), dim=1)
    picture = Image.fromarray((row * 255).round().byte().numpy())
    return picture.resize((int(picture.width * ZOOM), int(picture.height * ZOOM)), Image.Resampling.LANCZOS)


def grid(rows: list[tuple[str, torch.Tensor, torch.Tensor]], erased: str) -> Image.Image:
    """A sheet with one prompt a row: its name, the original pictures, the erased ones."""
    font, bold = ImageFont.load_default(15), ImageFont.load_default(17)
    left, top, gap = 210, 36, 18
    strips = [(prompt, strip(before), strip(after)) for prompt, before, after in rows]
    width, height = strips[0][1].size
    sheet = Image.new("RGB", (left + 2 * width + gap, top + len(rows) * (height + 6)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((left, 8), "original", fill="black", font=bold)
    pen.text((left + width + gap, 8), f"'{erased}' erased, same seeds", fill="black", font=bold)
    for index, (prompt, before, after) in enumerate(strips):
        y = top + index * (height + 6)
        pen.text((10, y + height // 2 - 10), prompt, fill="black", font=font)
        sheet.paste(before, (left, y))
        sheet.paste(after, (left + width + gap, y))
    return sheet


def main() -> None:
    classifier = load_classifier()
    erased = next(
        node["widgets_values"][1]
        for node in json.loads(TEMPLATE.read_text())["nodes"]
        if node["type"] == "SAEEraser_EraseConcept"
    )
    rows, table = [], ["| prompt | original: object | style | erased: object | style |", "|---|---|---|---|---|"]
    with running_server() as server:
        saved = server.base / "output"
        for number, prompt in enumerate(PROMPTS, start=1):
            print(f"[{number}/{len(PROMPTS)}] {prompt}", flush=True)
            run(server, workflow_for(prompt))
            before, after = (pictures(saved, prefix) for prefix in ("original", "erased"))
            for file in saved.glob("*.png"):
                file.unlink()
            rows.append((prompt, before, after))
            cells = []
            for images in (before, after):
                objects, styles = classify(classifier, images)
                cells += [", ".join(OBJECTS[o] for o in objects), ", ".join(STYLES[s] for s in styles)]
            table.append(f"| {prompt} | " + " | ".join(cells) + " |")
    OUT.mkdir(parents=True, exist_ok=True)
    grid(rows, erased).save(OUT / "grid.jpg", quality=85, optimize=True)
    (OUT / "verdicts.md").write_text("\n".join(table) + "\n")
    print("\n".join(table))
    print(f"\nThe pictures: {OUT / 'grid.jpg'}")


if __name__ == "__main__":
    main()
