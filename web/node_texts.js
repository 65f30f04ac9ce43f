// Shows the text that a node has made (ui.PreviewText) below its inputs; ComfyUI shows it at nodes of its own alone.
import { app } from "../../scripts/app.js";

const NAME = "result";
const PROGRESS = "$$node-text-preview"; // where ComfyUI shows how far a node is; it stays when the node is done
const HEIGHT = 160;

function addText(node) {
  const { widget } = app.widgets.STRING(node, NAME, ["STRING", { multiline: true }], app);
  widget.serialize = widget.options.serialize = false; // neither in the workflow nor in what is run
  widget.options.read_only = widget.element.readOnly = true;
  const [width, height] = node.size;
  node.setSize([width, Math.max(height, node.computeSize()[1] + HEIGHT)]);
  return widget;
}

function show(node, text) {
  if (!text?.length) return;
  const progress = node.widgets?.find((other) => other.name === PROGRESS);
  if (progress) node.removeWidget(progress);
  const widget = node.widgets?.find((other) => other.name === NAME) ?? addText(node);
  widget.value = text.join("\n");
}

app.registerExtension({
  name: "SAEEraser.Texts",

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith("SAEEraser_")) return;
    const { onExecuted } = nodeType.prototype;
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.call(this, output);
      show(this, output.text);
    };
  },

  // When a workflow is opened whose results the page has.
  onNodeOutputsUpdated(outputs) {
    for (const [place, output] of Object.entries(outputs)) {
      const [id, subgraph] = place.split(":").reverse();
      const graph = subgraph ? app.rootGraph.subgraphs.get(subgraph) : app.rootGraph;
      const node = graph?.getNodeById(id);
      if (node?.type.startsWith("SAEEraser_")) show(node, output.text);
    }
  },
});
