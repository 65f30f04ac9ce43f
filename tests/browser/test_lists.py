"""The dropdowns of SAE files and concepts, and what is said when they do not fit the workflow."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from browser.comfy_page import WIDGETS, ComfyPage
from checkout import ROOT
from sae_eraser.sae_ops.sae_file import load_sae, save_sae
from shapecanvas.concepts import OBJECTS, STYLES

WEIGHTS = ROOT / "tests" / "shapecanvas" / "weights"
OBJECTS_FILE, STYLES_FILE = "sae_shapecanvas_objects.safetensors", "sae_shapecanvas_styles.safetensors"
ERASE, LOAD = "SAEEraser_EraseConcept", "SAEEraser_LoadSAE"
REPLACED = """kind => {
    const old = app.graph.nodes.find(node => node.type === kind)
    const added = LiteGraph.createNode(kind)
    added.pos = old.pos
    app.graph.add(added)
    old.getInputNode(0).connect(0, added, 0)
    for (const node of old.getOutputNodes(0)) added.connect(0, node, "model")
    app.graph.remove(old)
}"""
"""Puts a new node of the kind into the place of the one that is there."""
URL = "https://huggingface.co/someone/saes/resolve/main/"


@pytest.fixture
def workflow() -> dict:
    return json.loads((ROOT / "example_workflows" / "Erase one concept.json").read_text())


@pytest.fixture
def models(server):
    """Puts one of the small world's files into models/sae under another name, with an address; gone afterwards."""
    added: list[Path] = []

    def add(name: str, of: str) -> None:
        added.append(server.base / "models" / "sae" / name)
        sae, header, statistics = load_sae(WEIGHTS / of)
        save_sae(added[-1], sae, replace(header, training={"url": URL + name}), statistics)

    yield add
    for path in added:
        path.unlink()


class NothingInstalled:
    """models/sae without what was in it, until undo() is called."""

    def __init__(self, folder: Path, elsewhere: Path):
        self.folder, self.elsewhere = folder, elsewhere
        for path in folder.iterdir():
            path.rename(elsewhere / path.name)

    def undo(self) -> None:
        for path in self.elsewhere.iterdir():
            path.rename(self.folder / path.name)


@pytest.fixture
def nothing_installed(server):
    elsewhere = server.base / "models" / "sae elsewhere"
    elsewhere.mkdir()
    nothing = NothingInstalled(server.base / "models" / "sae", elsewhere)
    yield nothing
    nothing.undo()
    elsewhere.rmdir()


def erase_node(workflow: dict) -> dict:
    (node,) = (node for node in workflow["nodes"] if node["type"] == ERASE)
    return node


def test_concepts_follow_the_file_and_a_new_file_is_seen_after_r(comfy: ComfyPage, workflow, models):
    comfy.open()
    comfy.load(workflow)
    assert sorted(comfy.options(ERASE, "sae.concept")) == sorted(OBJECTS)
    comfy.choose(ERASE, "sae", STYLES_FILE)
    assert sorted(comfy.options(ERASE, "sae.concept")) == sorted(STYLES)
    comfy.choose(ERASE, "sae.concept", "neon")
    models("new.safetensors", of=OBJECTS_FILE)
    comfy.press_r()
    assert comfy.widgets(ERASE)["sae"] == STYLES_FILE
    assert comfy.widgets(ERASE)["sae.concept"] == "neon"
    comfy.choose(ERASE, "sae", "new.safetensors")
    assert sorted(comfy.options(ERASE, "sae.concept")) == sorted(OBJECTS)
    comfy.choose(ERASE, "sae.concept", "heart")
    saved = erase_node(comfy.saved())
    assert saved["widgets_values"][:3] == ["new.safetensors", "heart", 1]
    models = saved["properties"]["models"]
    assert models == [{"name": "new.safetensors", "url": URL + "new.safetensors", "directory": "sae"}]


def test_in_nodes_2_0_a_new_file_is_seen_after_r(comfy: ComfyPage, workflow, models):
    """In the list that is drawn, and that can be chosen from."""
    erase_node(workflow)["widgets_values"][:2] = ["gone.safetensors", "heart"]
    comfy.open(**{"Comfy.VueNodes.Enabled": True})
    comfy.load(workflow)
    models("gone.safetensors", of=OBJECTS_FILE)
    models("new.safetensors", of=STYLES_FILE)
    comfy.press_r()
    files = comfy.page.get_by_role("combobox", name="sae", exact=True)
    files.click()
    entries = comfy.page.get_by_role("option")
    entries.first.wait_for()
    assert sorted(entries.all_inner_texts()) == sorted(
        ["gone.safetensors", "new.safetensors", OBJECTS_FILE, STYLES_FILE]
    )
    comfy.screenshot("list")
    entries.get_by_text("new.safetensors").click()
    comfy.wait_for(f"({WIDGETS})('{ERASE}').some(([name, value]) => name === 'sae' && value === 'new.safetensors')")
    assert comfy.widgets(ERASE)["sae.concept"] in STYLES


def test_another_file_with_the_same_concepts_keeps_the_one_that_is_chosen(comfy: ComfyPage, workflow, models):
    """As one that was trained anew under another name; after R as well."""
    models("again.safetensors", of=OBJECTS_FILE)
    comfy.open()
    comfy.load(workflow)
    comfy.choose(ERASE, "sae.concept", "triangle")
    for refresh in (False, True):
        for file in ("again.safetensors", OBJECTS_FILE):
            comfy.choose(ERASE, "sae", file)
            assert comfy.widgets(ERASE)["sae"] == file
            assert comfy.widgets(ERASE)["sae.concept"] == "triangle"
        if not refresh:
            comfy.press_r()
    comfy.choose(ERASE, "sae", STYLES_FILE)
    assert comfy.widgets(ERASE)["sae.concept"] in STYLES


def test_a_file_that_was_written_anew_is_remembered_after_a_run(comfy: ComfyPage, workflow, models):
    """As Train SAE does it with overwrite; without R."""
    models("mine.safetensors", of=OBJECTS_FILE)
    erase_node(workflow)["widgets_values"][0] = "mine.safetensors"
    for node in workflow["nodes"]:
        if node["type"] == "KSampler":
            node["widgets_values"][2] = 1
        if node["type"] == "SaveImage":
            node["widgets_values"] = ["anew"]
    comfy.open()
    comfy.load(workflow)
    before = erase_node(comfy.saved())["properties"]["sae_id"]
    path = comfy.server.base / "models" / "sae" / "mine.safetensors"
    sae, header, statistics = load_sae(path)
    save_sae(path, sae, replace(header, training={}), statistics)
    comfy.run()
    remembered = f"app.rootGraph.serialize().nodes.find(n => n.type === '{ERASE}').properties.sae_id"
    comfy.wait_for(f"{remembered} !== '{before}'")


def test_load_sae_remembers_its_file_and_where_to_get_it(comfy: ComfyPage, models):
    workflow = json.loads((ROOT / "example_workflows" / "Erase several concepts.json").read_text())
    models("mine.safetensors", of=OBJECTS_FILE)
    (node,) = (node for node in workflow["nodes"] if node["type"] == LOAD)
    node["widgets_values"], node["properties"]["sae_id"] = ["mine.safetensors"], "0123456789ab"
    comfy.open()
    comfy.load(workflow)
    comfy.message("made with another 'mine.safetensors' (0123456789ab)").wait_for()
    (saved,) = (node for node in comfy.saved()["nodes"] if node["type"] == LOAD)
    assert saved["properties"]["sae_id"] not in ("", "0123456789ab")
    address = {"name": "mine.safetensors", "url": URL + "mine.safetensors", "directory": "sae"}
    assert saved["properties"]["models"] == [address]


def test_the_address_of_a_file_that_is_no_longer_chosen_is_forgotten(comfy: ComfyPage, workflow, models):
    models("mine.safetensors", of=OBJECTS_FILE)
    erase_node(workflow)["widgets_values"][0] = "mine.safetensors"
    comfy.open()
    comfy.load(workflow)
    comfy.load(comfy.saved())
    assert erase_node(comfy.saved())["properties"]["models"]
    comfy.choose(ERASE, "sae", OBJECTS_FILE)
    assert "models" not in erase_node(comfy.saved())["properties"]


def test_a_node_in_a_subgraph_has_a_new_file_after_r(comfy: ComfyPage, workflow, models):
    comfy.open()
    comfy.load(workflow)
    comfy.page.evaluate(
        "type => app.graph.convertToSubgraph(new Set([app.graph.nodes.find(node => node.type === type)])) && 0", ERASE
    )
    models("new.safetensors", of=OBJECTS_FILE)
    comfy.press_r()
    files = comfy.page.evaluate(
        """type => [...app.rootGraph.subgraphs.values()].flatMap(graph => graph.nodes).find(node => node.type === type)
            .widgets.find(widget => widget.name === "sae").options.values""",
        ERASE,
    )
    assert sorted(files) == sorted(["new.safetensors", OBJECTS_FILE, STYLES_FILE])


def test_a_file_that_is_chosen_on_a_subgraph_is_not_remembered_at_the_node(comfy: ComfyPage, workflow):
    """It says nothing of the file that the subgraph has."""
    comfy.open()
    comfy.load(workflow)
    comfy.page.evaluate(
        """type => {
            const node = app.graph.nodes.find(node => node.type === type)
            const { subgraph } = app.graph.convertToSubgraph(new Set([node]))
            const inner = subgraph.nodes.find(node => node.type === type)
            const slot = inner.inputs.find(input => input.name === "sae")
            subgraph.addInput("sae", slot.type).connect(slot, inner)
        }""",
        ERASE,
    )
    (subgraph,) = comfy.saved()["definitions"]["subgraphs"]
    inner = erase_node(subgraph)
    assert "sae_id" not in inner["properties"] and "models" not in inner["properties"]


def test_what_is_said_of_the_concept_is_translated(comfy: ComfyPage, workflow):
    """ComfyUI makes its list for every file anew, with the English text."""
    said = f"app.graph.nodes.find(n => n.type === '{ERASE}').widgets.find(w => w.name === 'sae.concept').tooltip"
    comfy.open(**{"Comfy.Locale": "zh"})
    comfy.load(workflow)
    assert comfy.page.evaluate(said) == "不应再被画出的概念。"
    comfy.choose(ERASE, "sae", STYLES_FILE)
    assert comfy.page.evaluate(said) == "不应再被画出的概念。"


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "nodes_2.0"])
def test_a_workflow_with_a_missing_file_says_so_and_keeps_all_values(comfy: ComfyPage, workflow, models, vue):
    node = erase_node(workflow)
    node["widgets_values"][:3] = ["gone.safetensors", "heart", 0.75]
    node["properties"]["sae_id"] = "0123456789ab"
    comfy.open(**{"Comfy.VueNodes.Enabled": vue})
    comfy.load(workflow)
    comfy.message("gone.safetensors is missing").wait_for()
    comfy.screenshot("missing")
    saved = erase_node(comfy.saved())
    assert saved["widgets_values"] == node["widgets_values"]
    assert saved["properties"]["sae_id"] == "0123456789ab"
    assert saved["outputs"][0]["links"] == node["outputs"][0]["links"]
    models("gone.safetensors", of=OBJECTS_FILE)
    comfy.press_r()
    saved = erase_node(comfy.saved())
    assert saved["widgets_values"] == node["widgets_values"]
    assert saved["properties"]["sae_id"] != "0123456789ab"
    assert sorted(comfy.options(ERASE, "sae.concept")) == sorted(OBJECTS)
    comfy.message("gone.safetensors is missing").wait_for(state="hidden")


def test_a_missing_concept_of_an_api_workflow_is_asked_for(comfy: ComfyPage, workflow, models):
    """The page loads such a workflow without the concept while its file is missing."""
    comfy.open()
    comfy.load(workflow)
    prompt = comfy.page.evaluate("async () => (await app.graphToPrompt()).output")
    (node,) = (node for node in prompt.values() if node["class_type"] == ERASE)
    node["inputs"] |= {"sae": "gone.safetensors", "sae.concept": "heart"}
    comfy.page.evaluate("async (prompt) => { await app.loadApiJson(prompt, 'api'); }", prompt)
    models("gone.safetensors", of=OBJECTS_FILE)
    comfy.press_r()
    comfy.message("choose a concept of 'gone.safetensors'").wait_for()
    assert comfy.widgets(ERASE)["sae"] == "gone.safetensors"
    assert comfy.widgets(ERASE)["sae.concept"] == ""


def test_a_run_with_a_missing_file_says_what_to_do(comfy: ComfyPage, workflow):
    erase_node(workflow)["widgets_values"][0] = "gone.safetensors"
    comfy.open()
    comfy.load(workflow)
    comfy.run()
    comfy.page.get_by_role("button", name="View details").click()
    comfy.page.get_by_text("The SAE 'gone.safetensors' is not installed. Put SAE files").first.wait_for()


def test_a_new_node_with_no_sae_installed_says_what_to_do(comfy: ComfyPage, workflow, nothing_installed):
    comfy.open()
    comfy.load(workflow)
    comfy.page.evaluate(REPLACED, ERASE)
    assert comfy.widgets(ERASE)["sae"] == "no SAE installed"
    assert comfy.widgets(ERASE)["sae.concept"] == "no concept"
    comfy.run()
    comfy.page.get_by_role("button", name="View details").click()
    comfy.page.get_by_text("No SAE is installed. Put SAE files").first.wait_for()
    comfy.screenshot("said")
    nothing_installed.undo()
    comfy.press_r()
    comfy.choose(ERASE, "sae", OBJECTS_FILE)
    assert sorted(comfy.options(ERASE, "sae.concept")) == sorted(OBJECTS)


def test_a_concept_that_the_file_lacks_is_named(comfy: ComfyPage, workflow):
    node = erase_node(workflow)
    node["widgets_values"][1] = "dragon"
    comfy.open()
    comfy.load(workflow)
    named = comfy.message("'sae_shapecanvas_objects.safetensors' has no concept 'dragon'")
    named.wait_for()
    comfy.screenshot("named")
    for _ in range(2):  # as undo does
        comfy.load(comfy.saved())
    assert named.count() == 1
    assert erase_node(comfy.saved())["widgets_values"] == node["widgets_values"]
    comfy.run()
    comfy.page.get_by_text("Invalid input").first.wait_for()


def test_another_file_of_the_same_name_is_noticed(comfy: ComfyPage, workflow):
    erase_node(workflow)["properties"]["sae_id"] = "0123456789ab"
    comfy.open()
    comfy.load(workflow)
    comfy.message("made with another 'sae_shapecanvas_objects.safetensors' (0123456789ab)").wait_for()
    comfy.screenshot("noticed")
    saved = comfy.saved()
    assert erase_node(saved)["properties"]["sae_id"] != "0123456789ab"
    comfy.page.reload()
    comfy.wait_for("window.app?.vueAppReady && window.app.rootGraph?.nodes.length")
    comfy.load(saved)
    comfy.page.wait_for_timeout(500)
    assert not comfy.page.get_by_text("made with another").count()
