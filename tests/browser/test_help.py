"""The help of a node, as the page shows it."""

import json
import re

from browser.comfy_page import ComfyPage
from checkout import ROOT

DOCS = ROOT / "web" / "docs"
SELECT = "type => app.canvas.selectNode(app.graph.nodes.find(node => node.type === type))"
LOADED = """(() => {
    const pictures = [...document.querySelectorAll('img[src*="/extensions/sae-eraser/"]')]
    return pictures.length > 1 && pictures.every(picture => picture.complete && picture.naturalWidth)
})()"""


def test_every_picture_that_a_page_shows_is_there():
    for path in DOCS.glob("*.md"):
        for picture in re.findall(r"!\[.+?\]\((.+?)\)", path.read_text()):
            assert (DOCS / picture).is_file(), f"{path.name}: {picture}"


def test_the_page_loads_them(comfy: ComfyPage):
    comfy.open()
    comfy.load(json.loads((ROOT / "example_workflows" / "Erase one concept.json").read_text()))
    comfy.page.evaluate(SELECT, "SAEEraser_EraseConcept")
    comfy.page.get_by_test_id("info-button").click()
    comfy.wait_for(LOADED)
    comfy.screenshot("help")
