"""The subgraph blueprints: found in the page's node library, and each works as the one node it is."""

import json
import re

import pytest
from PIL import Image

from browser.comfy_page import ComfyPage
from checkout import ROOT

OUTPUTS = {"Original and erased": ["original", "erased"], "Image without a concept": ["IMAGE"]}
VALUES = {
    "prompt": "a star in neon style",
    "concepts": "star",
    "width": 64,
    "height": 64,
    "steps": 12,
    "cfg": 3,
    "seed": 7,
}
CONNECT = """([name, values]) => {
    const of = type => app.graph.nodes.find(n => n.type === type)
    const added = app.graph.nodes.find(n => n.title === name)
    const connect = (from, output, name) =>
        from.connect(output, added, added.inputs.findIndex(slot => slot.name === name))
    for (const [output, name] of ["model", "clip", "vae"].entries()) connect(of("CheckpointLoaderSimple"), output, name)
    connect(of("SAEEraser_LoadSAE"), 0, "sae")
    for (const [name, value] of Object.entries(values)) added.widgets.find(w => w.name === name).value = value
    added.pos = [430, 60]
    app.canvas.ds.scale = 0.8
    app.canvas.ds.offset = [100, 100]
    added.outputs.forEach((slot, output) => {
        const save = LiteGraph.createNode("SaveImage")
        save.pos = [850, 60 + 350 * output]
        app.graph.add(save)
        save.widgets[0].value = `${name} ${slot.name}`
        added.connect(output, save, 0)
    })
}"""
SAVED = "app.graph.nodes.filter(n => n.type === 'SaveImage').every(n => n.imgs?.length)"


def loaders() -> dict:
    """A checkpoint and an SAE, and nothing else."""
    workflow = json.loads((ROOT / "example_workflows" / "Erase several concepts.json").read_text())
    kept = [node for node in workflow["nodes"] if node["type"] in ("CheckpointLoaderSimple", "SAEEraser_LoadSAE")]
    for output in (output for node in kept for output in node["outputs"]):
        output["links"] = []
    return workflow | {"nodes": kept, "links": []}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_blueprint_is_found_added_and_run(comfy: ComfyPage, name):
    comfy.open()
    comfy.load(loaders())
    page = comfy.page
    library = page.get_by_role("button", name="Node Library")
    library.click()
    page.get_by_placeholder(re.compile(r"^Search( Nodes)?\.\.\.$")).fill(name)
    entry = page.get_by_text(name, exact=True)
    entry.wait_for()
    comfy.screenshot("found")
    entry.click()
    page.mouse.move(1000, 500)
    page.mouse.click(1000, 500)
    comfy.wait_for(f"app.graph.nodes.some(n => n.title === '{name}')")
    library.click()
    page.evaluate(CONNECT, [name, VALUES])
    comfy.run()
    comfy.wait_for(SAVED)
    comfy.screenshot("ran")
    saved = [Image.open(path) for path in sorted((comfy.server.base / "output").glob(f"{name} *.png"))]
    assert all(picture.size == (64, 64) for picture in saved)
    assert len({picture.tobytes() for picture in saved}) == len(OUTPUTS[name])
