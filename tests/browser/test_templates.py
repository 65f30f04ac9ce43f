"""The templates in the page: complete, nothing cut off, nothing on top of something else."""

import json

import pytest

from browser.comfy_page import ComfyPage
from checkout import ROOT
from templates.checkpoints import ADDRESSES, LOADER, SD15, missing_checkpoints

FOLDER = ROOT / "example_workflows"
TEMPLATES = sorted(FOLDER.glob("*.json"))
UNKNOWN = "app.graph.nodes.filter(n => n.has_errors || !LiteGraph.registered_node_types[n.type]).map(n => n.type)"
BOXES = "app.graph.nodes.map(n => [n.title, ...n.pos, ...n.size, ...n.computeSize()])"
CUT_NOTES = """[...document.querySelectorAll('.comfy-markdown-content')]
    .filter(note => note.scrollHeight > note.clientHeight + 1).map(note => note.innerText)"""
DRAWN_BOXES = """[...document.querySelectorAll('[data-node-id]')].map(node => {
    const { left, top, right, bottom } = node.getBoundingClientRect()
    return [app.graph.getNodeById(node.dataset.nodeId).title, left, top, right, bottom]
})"""
TITLE_HEIGHT = 30


def overlap(a: list, b: list) -> bool:
    return all(
        a[1 + axis] - bar < b[1 + axis] + b[3 + axis] and b[1 + axis] - bar < a[1 + axis] + a[3 + axis]
        for axis, bar in ((0, 0), (1, TITLE_HEIGHT))
    )


def meet(a: list, b: list) -> bool:
    return all(a[axis] < b[2 + axis] and b[axis] < a[2 + axis] for axis in (0, 1))


def test_every_template_opens_and_is_laid_out_well(comfy: ComfyPage):
    comfy.open()
    for path in TEMPLATES:
        workflow = json.loads(path.read_text())
        comfy.load(workflow)
        comfy.page.wait_for_timeout(1500)  # until the notes are drawn
        comfy.screenshot(path.stem.replace(" ", "_"))
        assert comfy.page.evaluate(UNKNOWN) == [LOADER for _ in missing_checkpoints(comfy.server, workflow)]
        assert comfy.page.evaluate(CUT_NOTES) == []
        assert not comfy.page.evaluate("app.canvas.low_quality"), "so wide that the page leaves out all text"
        boxes = comfy.page.evaluate(BOXES)
        assert len(boxes) > 2
        for index, box in enumerate(boxes):
            title, _, _, _, height, least_width, least_height = box
            assert height >= least_height, f"{title} must be {least_width} x {least_height}"
            assert [other[0] for other in boxes[index + 1 :] if overlap(box, other)] == [], f"{title} lies on these"


def test_a_checkpoint_that_is_missing_is_named_with_where_to_get_it(comfy: ComfyPage):
    comfy.open()
    comfy.load(json.loads((FOLDER / "Train and erase, SD1.5.json").read_text()))
    comfy.page.get_by_role("button", name="View details").click()
    download = comfy.page.get_by_role("button", name=f"Download {SD15}")
    download.wait_for()
    comfy.screenshot("named")
    comfy.page.evaluate("HTMLAnchorElement.prototype.click = function () { window.downloaded = this.href }")
    download.click()
    comfy.wait_for(f"window.downloaded === '{ADDRESSES[SD15]}'")


def test_nothing_lies_on_something_else_in_nodes_2_0(comfy: ComfyPage):
    """It draws nodes wider and higher than they are saved where their content needs that."""
    comfy.open(**{"Comfy.VueNodes.Enabled": True})
    for path in TEMPLATES:
        comfy.load(json.loads(path.read_text()))
        comfy.page.wait_for_timeout(1500)
        comfy.screenshot(path.stem.replace(" ", "_"))
        boxes = comfy.page.evaluate(DRAWN_BOXES)
        assert len(boxes) > 2
        for index, (title, *box) in enumerate(boxes):
            assert [other[0] for other in boxes[index + 1 :] if meet(box, other[1:])] == [], f"{title} lies on these"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_every_template_has_a_thumbnail(path):
    assert path.with_suffix(".jpg").exists(), "make templates"
