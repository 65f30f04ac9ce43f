// Lists of SAE files and of their concepts in the page: what a dropdown that is built once cannot know.
// - R: files that were added, removed or trained anew since the node was made
// - a workflow that names a file which is not installed keeps its concept and all other values
// - who chooses another file keeps the concept, if that has it too
// - a workflow made with another file of the same name, or with a concept that the file lacks, says so
import { app } from "../../scripts/app.js";

const LIST = "COMFY_DYNAMICCOMBO_V3";
let definitions = {};

const listSpec = (node) => {
  const spec = definitions[node.type]?.input?.required?.sae;
  return spec?.[0] === LIST ? spec : undefined;
};

const fileWidget = (node) => node.widgets?.find((widget) => widget.name === (listSpec(node) ? "sae" : "sae_name"));

const conceptWidget = (node) => node.widgets?.find((widget) => widget.name === "sae.concept");

/** Whether the file is chosen elsewhere: on the subgraph that the node is in, or by a node that it is linked to. */
const isLinked = (node) => node.inputs?.some((input) => input.name === fileWidget(node)?.name && input.link != null);

const origins = () => definitions.SAEEraser_LoadSAE?.input.required.sae_name[1].sae_origins ?? {};

/** An SAE that Train SAE or Import SAE has written anew is another one, though its name is in the lists already. */
async function readOrigins() {
  const answer = await app.api.fetchApi("/object_info/SAEEraser_LoadSAE");
  if (answer.ok) definitions = { ...definitions, ...(await answer.json()) };
}

/** Builds the list of files anew, with `file` and `concept` chosen, whether the file is installed or not. */
function rebuildList(node, file, concept) {
  const [type, settings] = listSpec(node);
  const installed = settings.options.map((option) => option.key);
  const inputs = { required: { concept: ["COMBO", { options: concept == null ? [] : [concept] }] } };
  const options = installed.includes(file) ? settings.options : [...settings.options, { key: file, inputs }];

  const place = node.widgets.findIndex((widget) => widget.name === "sae");
  const [old] = node.widgets.splice(place, 1);
  const { widget } = app.widgets[LIST](node, "sae", [type, { ...settings, options }], app);
  const added = node.widgets.splice(node.widgets.indexOf(widget));
  node.widgets.splice(place, 0, ...added);
  // The old object, since that is what Nodes 2.0 draws; ComfyUI reports a file that is not among these as missing.
  widget.options = Object.assign(old.options, { values: installed });
  widget.tooltip = old.tooltip;
  widget.label = old.label; // translated
  widget.value = file;
  const concepts = conceptWidget(node);
  if (concept != null && concepts) concepts.value = concept;
  keepConcept(node);
}

/** The concept that was chosen in the list that went last. */
const lastConcept = new WeakMap();

let translations = {};

/** ComfyUI translates what is said of every input but of this one, which is made by another. */
const translated = (node) =>
  translations[app.extensionManager.setting.get("Comfy.Locale")]?.nodeDefs?.[node.type]?.inputs.sae_concept?.tooltip;

function prepareConcept(node) {
  const concepts = conceptWidget(node);
  if (!concepts) return;
  concepts.onRemove = () => lastConcept.set(node, concepts.value);
  concepts.tooltip = translated(node) ?? concepts.tooltip;
}

/** ComfyUI makes the list of concepts anew for every file, with the first one chosen. */
function keepConcept(node) {
  prepareConcept(node);
  const files = fileWidget(node);
  const { callback } = files;
  files.callback = function (...values) {
    const concepts = conceptWidget(node);
    if (concepts?.options.values.includes(lastConcept.get(node))) concepts.value = lastConcept.get(node);
    prepareConcept(node);
    return callback?.apply(this, values);
  };
}

/** A workflow in the API's format is loaded without the concept if its file is missing: none is chosen for the user. */
function chooseNone(node, file) {
  const concepts = conceptWidget(node);
  if (!concepts?.options.values.length) return;
  concepts.value = "";
  warn("A concept is missing", `${node.title}: choose a concept of '${file}' from its list.`);
}

const MILLISECONDS_SHOWN = 30_000; // the same corner has ComfyUI's own errors
const shown = new Set();

/** Not again while it is there: undo and a change of tabs configure all nodes anew. */
function warn(summary, detail) {
  if (shown.has(detail)) return;
  shown.add(detail);
  setTimeout(() => shown.delete(detail), MILLISECONDS_SHOWN);
  app.extensionManager.toast.add({ severity: "warn", summary, detail, life: MILLISECONDS_SHOWN });
}

/** Says so if the workflow was made with another file of the same name, or if the file lacks the concept. */
function compareFiles(node, properties) {
  const name = fileWidget(node)?.value;
  const now = origins()[name]?.id;
  if (!now || isLinked(node)) return;
  if (properties?.sae_id && properties.sae_id !== now)
    warn(
      "Another SAE of the same name",
      `${node.title}: this workflow was made with another '${name}' (${properties.sae_id}) than the one in ` +
        `models/sae (${now}). Its pictures may differ. To repeat them, put the file of the workflow there and press R.`,
    );
  const concept = conceptWidget(node);
  if (concept && !concept.options.values.includes(concept.value))
    warn(
      "A concept is missing",
      `${node.title}: '${name}' has no concept '${concept.value}'. Choose one from its list, or another SAE.`,
    );
}

/** Writes into the workflow which file was used, and where to get it. */
function rememberFile(node, saved) {
  const linked = isLinked(node);
  const name = linked ? undefined : fileWidget(node)?.value;
  const origin = origins()[name];
  saved.properties ??= {};
  if (linked) delete saved.properties.sae_id;
  if (origin) saved.properties.sae_id = origin.id;
  const models = (saved.properties.models ?? []).filter((model) => model.name === name);
  if (origin?.url) models.splice(0, 1, { name, url: origin.url, directory: "sae" });
  if (models.length) saved.properties.models = models;
  else delete saved.properties.models;
}

function after(prototype, method, then) {
  const before = prototype[method];
  prototype[method] = function (...values) {
    const result = before?.apply(this, values);
    then(this, ...values);
    return result;
  };
}

app.registerExtension({
  name: "SAEEraser.Files",

  async init() {
    translations = await app.api.getCustomNodesI18n();
    app.api.addEventListener("execution_success", readOrigins);
  },

  addCustomNodeDefs(defs) {
    definitions = defs;
  },

  beforeRegisterNodeDef(nodeType, nodeData) {
    definitions[nodeData.name] = nodeData;
    if (!nodeData.name.startsWith("SAEEraser_")) return;
    const inputs = nodeData.input?.required ?? {};
    const hasList = inputs.sae?.[0] === LIST;
    if (!hasList && !inputs.sae_name) return;

    const configure = nodeType.prototype.configure;
    nodeType.prototype.configure = function (saved) {
      if (hasList && saved.widgets_values) {
        const place = this.widgets.findIndex((widget) => widget.name === "sae");
        const [file, concept] = saved.widgets_values.slice(place);
        if (!this.widgets[place].options.values.includes(file)) rebuildList(this, file, concept);
      }
      return configure.call(this, saved);
    };
    if (hasList) {
      after(nodeType.prototype, "onNodeCreated", keepConcept);
      after(nodeType.prototype, "onConfigure", prepareConcept);
    }
    after(nodeType.prototype, "onConfigure", (node, saved) => compareFiles(node, saved.properties));
    after(nodeType.prototype, "onSerialize", rememberFile);
  },

  refreshComboInNodes(defs) {
    definitions = defs;
    for (const graph of [app.rootGraph, ...app.rootGraph.subgraphs.values()])
      for (const node of graph.nodes)
        if (node.type.startsWith("SAEEraser_") && listSpec(node)) {
          const [file, concept] = [fileWidget(node), conceptWidget(node)].map((widget) => widget?.value);
          rebuildList(node, file, concept);
          if (concept == null) chooseNone(node, file);
        }
  },
});
