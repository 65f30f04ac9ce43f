"""Writes workflows as ComfyUI's page saves them, from the definitions that a running ComfyUI gives of its nodes."""

from dataclasses import dataclass, field

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")


@dataclass
class Node:
    """A node that stands in the workflow; node["MODEL"] is its output of this name, for an input of another."""

    saved: dict

    def __getitem__(self, output: str) -> tuple[dict, int]:
        names = [slot["name"] for slot in self.saved["outputs"]]
        return self.saved, names.index(output)


@dataclass
class Graph:
    """A workflow that grows node by node."""

    definitions: dict
    """What /object_info answers."""
    nodes: list[dict] = field(default_factory=list)
    links: list[list] = field(default_factory=list)

    def add(self, kind: str, place: tuple[int, int], size: tuple[int, int], title: str | None = None, **values) -> Node:
        """Adds a node at x, y with a width and height.

        values: for its inputs, an output of another node or what its widget shows; the others show their defaults.
        The input "sae.concept" is written sae__concept.
        """
        values = {name.replace("__", "."): value for name, value in values.items()}
        definition = self.definitions[kind]
        saved = {
            "id": len(self.nodes) + 1,
            "type": kind,
            "pos": list(place),
            "size": list(size),
            "flags": {},
            "order": len(self.nodes),
            "mode": 0,
            "inputs": [],
            "outputs": [
                {"name": name, "type": type_, "links": []}
                for name, type_ in zip(definition["output_name"], definition["output"], strict=True)
            ],
            "properties": {"Node name for S&R": kind},
            "widgets_values": [],
        }
        if title:
            saved["title"] = title
        self.nodes.append(saved)
        inputs = definition["input"]
        self._add_inputs(saved, {**inputs.get("required", {}), **inputs.get("optional", {})}, values)
        if values:
            raise ValueError(f"{kind} has no input {', '.join(values)}")
        return Node(saved)

    def note(self, place: tuple[int, int], size: tuple[int, int], title: str, text: str) -> None:
        """A note in Markdown; the page makes it, so the server has no definition of it."""
        kind = "MarkdownNote"
        saved = {"id": len(self.nodes) + 1, "type": kind, "pos": list(place), "size": list(size), "flags": {}}
        saved |= {"order": len(self.nodes), "mode": 0, "inputs": [], "outputs": [], "properties": {}}
        self.nodes.append(saved | {"widgets_values": [text], "title": title})

    def workflow(self) -> dict:
        """What the page would save."""
        return {
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }

    def _add_inputs(self, saved: dict, inputs: dict, values: dict, prefix: str = "") -> None:
        for name, (type_, *settings) in inputs.items():
            name, settings = prefix + name, settings[0] if settings else {}
            slot = {"name": name, "type": "COMBO" if isinstance(type_, list) else type_, "link": None}
            saved["inputs"].append(slot)
            is_widget = slot["type"] in WIDGETS and not settings.get("forceInput")
            if is_widget:
                slot["widget"] = {"name": name}
            value = values.pop(name, None)
            if isinstance(value, tuple):
                slot["link"] = self._link(value, saved, len(saved["inputs"]) - 1, slot["type"])
                value = None
            if is_widget:
                saved["widgets_values"].append(_default(type_, settings) if value is None else value)
            if settings.get("control_after_generate"):
                saved["widgets_values"].append("fixed")
            for option in settings.get("options", []) if type_ == "COMFY_DYNAMICCOMBO_V3" else []:
                if option["key"] == saved["widgets_values"][-1]:
                    self._add_inputs(saved, option["inputs"].get("required", {}), values, f"{name}.")
                    break

    def _link(self, source: tuple[dict, int], target: dict, slot: int, type_: str) -> int:
        origin, output = source
        link = len(self.links) + 1
        origin["outputs"][output]["links"].append(link)
        self.links.append([link, origin["id"], output, target["id"], slot, type_])
        return link


def _default(type_: str | list, settings: dict):
    options = type_ if isinstance(type_, list) else settings.get("options", [None])
    first = options[0]["key"] if isinstance(options[0], dict) else options[0]
    return settings.get("default", first if first is not None else {"STRING": "", "BOOLEAN": False}.get(type_, 0))
