"""From an installed pack to the first erased picture, as a newcomer goes."""

import json

from PIL import Image

from browser.comfy_page import ComfyPage

COUNT = """
window.clicks = 0; window.keys = 0; window.progress = 0
addEventListener("pointerdown", () => window.clicks++, true)
addEventListener("keydown", () => window.keys++, true)
"""
WATCH = "app.api.addEventListener('progress', event => window.progress = Math.max(window.progress, event.detail.value))"
PICTURES = "app.graph.nodes.filter(n => n.type === 'SaveImage').every(n => n.imgs?.length === 4)"


def test_three_clicks_and_no_typing(comfy: ComfyPage):
    comfy.page.add_init_script(COUNT)
    comfy.open_for_the_first_time()
    templates = comfy.page.get_by_role("dialog")
    templates.get_by_text("sae-eraser").click()
    thumbnails = templates.get_by_role("img")
    comfy.page.wait_for_function("document.querySelectorAll('[role=dialog] img').length", polling=100)
    comfy.screenshot("templates")
    assert all(image.evaluate("image => image.decode().then(() => image.naturalWidth)") for image in thumbnails.all())
    templates.get_by_role("heading", name="Erase one concept").click()
    comfy.wait_for("app.graph.nodes.some(n => n.type === 'SAEEraser_EraseConcept')")
    comfy.page.evaluate(WATCH)
    comfy.screenshot("opened")
    comfy.run()
    comfy.wait_for(PICTURES)
    assert comfy.page.evaluate("[window.clicks, window.keys]") == [3, 0]
    assert comfy.page.evaluate("window.progress") == 25

    erased, original = (comfy.server.base / "output" / f"{name}_00001_.png" for name in ("erased", "original"))
    assert Image.open(erased).tobytes() != Image.open(original).tobytes()
    (node,) = (n for n in json.loads(Image.open(erased).info["workflow"])["nodes"] if n["type"].startswith("SAEEraser"))
    assert node["widgets_values"][:3] == ["sae_shapecanvas_objects.safetensors", "star", 1]
    assert node["properties"]["sae_id"], "what is needed to repeat it"
