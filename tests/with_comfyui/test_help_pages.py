"""Help pages: every input of every node is named, with the default that the node has."""

import re

import pytest

from checkout import ROOT

DOCS = ROOT / "web" / "docs"


@pytest.fixture(scope="module")
def nodes(comfyui, pack) -> dict[str, dict[str, object]]:
    """The inputs of every node of the pack, in their order, and the defaults of those that have one."""
    classes = comfyui.nodes.NODE_CLASS_MAPPINGS
    return {
        name: inputs_of(node.GET_NODE_INFO_V1()["input"])
        for name, node in classes.items()
        if name.startswith("SAEEraser_")
    }


def inputs_of(spec: dict) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, (_, settings) in [*spec.get("required", {}).items(), *spec.get("optional", {}).items()]:
        found[name] = settings.get("default")
        for option in settings.get("options") or ():
            if isinstance(option, dict):  # what a choice brings along
                found |= inputs_of(option["inputs"])
    return found


def rows_of(page: str) -> list[list[str]]:
    """Names and text of every row of the table of inputs."""
    found, inside = [], False
    for line in page.splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells == ["input", ""]:
            inside = True
        elif inside and not set(cells[0]) <= set("-"):
            found.append(cells)
    return found


def shown(default: object) -> str:
    """As a page has it."""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, float):
        return f"{default:g}"
    if isinstance(default, str) and " " in default and ('"' in default or "|" in default):
        return "an example"
    return {None: "", "": "empty"}.get(default, str(default))


def test_every_node_has_a_page_and_every_page_a_node(nodes):
    assert sorted(path.stem for path in DOCS.glob("*.md")) == sorted(nodes)


def test_every_input_is_named_on_the_nodes_page(nodes):
    for node, inputs in nodes.items():
        page = (DOCS / f"{node}.md").read_text(encoding="utf-8")
        cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("|")]
        named = set(re.findall(r"\w+", " ".join([*cells, *re.findall(r"\*\*(\w+)\*\*", page)])))
        assert not inputs.keys() - named, node


def test_tables_have_all_inputs_in_their_order_with_the_nodes_defaults(nodes):
    tables = {node: rows_of((DOCS / f"{node}.md").read_text(encoding="utf-8")) for node in nodes}
    assert sum(map(bool, tables.values())) > 10
    for node, rows in tables.items():
        if rows:
            assert [name for names, *_ in rows for name in names.split(", ")] == list(nodes[node]), node
        for names, text in rows:
            defaults = ", ".join(filter(None, (shown(nodes[node][name]) for name in names.split(", "))))
            said = re.search(r" Defaults?: (.+)\.$", text.replace("`", ""))
            assert (said[1] if said else "") == defaults and text.endswith("."), (node, names)
