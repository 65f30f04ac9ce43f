"""What nodes have made stands at the nodes."""

import json

from browser.comfy_page import ComfyPage
from checkout import ROOT

SCORE = "SAEEraser_ConceptScore"
HEATMAP = "app.graph.nodes.find(n => n.title === 'Heatmap')"
RESULT = f"app.graph.nodes.find(n => n.type === '{SCORE}').widgets.find(w => w.name === 'result')"


def score_node(workflow: dict) -> dict:
    (node,) = (node for node in workflow["nodes"] if node["type"] == SCORE)
    return node


def test_nodes_show_text_and_heatmap_and_the_workflow_stays_as_it_was(comfy: ComfyPage):
    comfy.open()
    comfy.load(json.loads((ROOT / "example_workflows" / "See where a concept is.json").read_text()))
    before = score_node(comfy.saved())
    comfy.run()
    comfy.wait_for(f"{RESULT}?.value.includes('object: house  met')")
    comfy.wait_for(f"{HEATMAP}.imgs?.every(image => image.complete && image.naturalWidth >= 64)")
    comfy.screenshot("shown")
    after = score_node(comfy.saved())
    assert [after[key] for key in ("widgets_values", "inputs", "size")] == [
        before[key] for key in ("widgets_values", "inputs", "size")
    ]


def test_a_node_in_a_subgraph_has_its_text_again_when_the_workflow_is_opened(comfy: ComfyPage):
    """The page hands over its results by the place of each node: that of one in a subgraph begins with the subgraph."""
    comfy.open()
    comfy.load(json.loads((ROOT / "example_workflows" / "See where a concept is.json").read_text()))
    text = comfy.page.evaluate(
        """type => {
            const node = app.graph.nodes.find(node => node.type === type)
            const { subgraph } = app.graph.convertToSubgraph(new Set([node]))
            const inner = subgraph.nodes.find(node => node.type === type)
            app.nodeOutputs = { [`${subgraph.id}:${inner.id}`]: { text: ["object: house  met"] } }
            return inner.widgets.find(widget => widget.name === "result")?.value
        }""",
        SCORE,
    )
    assert text == "object: house  met"


def test_how_far_a_node_is_goes_when_its_result_is_there(comfy: ComfyPage):
    """A training that has ended would stay at 'measure: 90%'."""
    comfy.open()
    comfy.load(json.loads((ROOT / "example_workflows" / "See where a concept is.json").read_text()))
    running, done = comfy.page.evaluate(
        """type => {
            const node = app.graph.nodes.find(node => node.type === type)
            const shown = () => node.widgets.map(widget => widget.value)
            app.api.dispatchCustomEvent("progress_text", { nodeId: String(node.id), text: "measure: 90%" })
            const running = shown()
            node.onExecuted({ text: ["object: house  met"] })
            return [running, shown()]
        }""",
        SCORE,
    )
    assert "measure: 90%" in running
    assert "measure: 90%" not in done and "object: house  met" in done
