"""Writes subgraph blueprints: what ComfyUI lists among its nodes and adds to a workflow as one node."""

from dataclasses import dataclass, field
from uuid import NAMESPACE_URL, uuid5

from .graph import Graph

MARGIN, WIDTH = 120, 160


@dataclass
class Subgraph(Graph):
    """A graph with inputs and outputs of its own."""

    taken: dict = field(default_factory=lambda: {"id": -10, "outputs": []})
    given: dict = field(default_factory=lambda: {"id": -20, "inputs": []})

    def take(self, name: str) -> tuple[dict, int]:
        """An input of the subgraph, for inputs of its nodes; where those have a widget it has one too."""
        self.taken["outputs"].append({"name": name, "links": []})
        return self.taken, len(self.taken["outputs"]) - 1

    def give(self, name: str, value: tuple[dict, int]) -> None:
        """An output of the subgraph."""
        origin, output = value
        type_ = origin["outputs"][output]["type"]
        slot = len(self.given["inputs"])
        self.given["inputs"].append({"name": name, "type": type_, "link": self._link(value, self.given, slot, type_)})

    def blueprint(self, name: str, description: str) -> dict:
        """A workflow with the subgraph as its one node."""
        key, number = _id(name), len(self.nodes) + 1
        inputs = [self._taken(name, slot) for slot in self.taken["outputs"]]
        outputs = [
            {"id": _id(f"{name}/{slot['name']}"), "name": slot["name"], "type": slot["type"], "linkIds": [slot["link"]]}
            for slot in self.given["inputs"]
        ]
        lefts, tops, rights = zip(*((x, y, x + width) for x, y, width in self._places()), strict=True)
        definition = {
            "id": key,
            "version": 1,
            "state": {"lastGroupId": 0, "lastNodeId": number, "lastLinkId": len(self.links), "lastRerouteId": 0},
            "revision": 0,
            "config": {},
            "name": name,
            "description": description,
            "category": "SAE Eraser",
            "inputNode": _end(-10, min(lefts) - MARGIN - WIDTH, min(tops), inputs),
            "outputNode": _end(-20, max(rights) + MARGIN, min(tops), outputs),
            "inputs": inputs,
            "outputs": outputs,
            "widgets": [],
            "nodes": self.nodes,
            "groups": [],
            "links": [
                dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link, strict=True))
                for link in self.links
            ],
            "extra": {},
        }
        return {
            "revision": 0,
            "last_node_id": number,
            "last_link_id": 0,
            "nodes": [self._node(number, key, name, inputs, outputs)],
            "links": [],
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
            "definitions": {"subgraphs": [definition]},
        }

    def _node(self, number: int, key: str, name: str, inputs: list[dict], outputs: list[dict]) -> dict:
        widgets = {slot["name"]: self._widget(slot["linkIds"][0]) for slot in inputs}
        return {
            "id": number,
            "type": key,
            "pos": [0, 0],
            "size": [360, 420],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [
                {"name": slot["name"], "type": slot["type"], "link": None}
                | ({"widget": {"name": slot["name"]}} if widgets[slot["name"]] else {})
                for slot in inputs
            ],
            "outputs": [{"name": slot["name"], "type": slot["type"], "links": []} for slot in outputs],
            "title": name,
            "properties": {"proxyWidgets": [list(widget) for widget in widgets.values() if widget]},
            "widgets_values": [],
        }

    def _taken(self, name: str, slot: dict) -> dict:
        type_ = self.links[slot["links"][0] - 1][5]
        key = _id(f"{name}/{slot['name']}")
        return {"id": key, "name": slot["name"], "type": type_, "linkIds": slot["links"]}

    def _widget(self, link: int) -> tuple[str, str] | None:
        """The node and the name of the widget that this link ends at, if it does."""
        _, _, _, target, slot, _ = self.links[link - 1]
        (node,) = (node for node in self.nodes if node["id"] == target)
        widget = node["inputs"][slot].get("widget")
        return (str(target), widget["name"]) if widget else None

    def _places(self) -> list[tuple[int, int, int]]:
        return [(*node["pos"], node["size"][0]) for node in self.nodes]


def _id(name: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"sae-eraser/{name}"))


def _end(number: int, x: int, y: int, slots: list[dict]) -> dict:
    return {"id": number, "bounding": [x, y, WIDTH, 40 + 20 * len(slots)]}
