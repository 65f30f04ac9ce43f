"""Where a model and its text encoder come from: the checkpoint, LoRAs, and whatever else a workflow does to them."""

import json

from comfy_execution.graph_utils import is_link


def find_source(prompt: dict, node_id: str, inputs: tuple[str, ...]) -> list[str]:
    """All nodes before these inputs of a node, a line each, and last what the inputs are.

    prompt: the workflow as ComfyUI runs it. Equal workflows give equal lines, whatever the numbers of their nodes.
    Empty if the workflow does not have the node, because another node made it while it ran.
    """
    if node_id not in prompt:
        return []
    lines: list[str] = []
    places: dict[str, int] = {}

    def place(of: str) -> int:
        if of not in places:
            own = described(prompt[of]["inputs"])
            places[of] = len(lines) + 1
            lines.append(f"#{places[of]} {prompt[of]['class_type']}({own})")
        return places[of]

    def described(values: dict) -> str:
        return ", ".join(f"{name}={text(value)}" for name, value in sorted(values.items()))

    def text(value) -> str:
        return f"#{place(value[0])}[{value[1]}]" if is_link(value) else json.dumps(value)

    ends = described({name: prompt[node_id]["inputs"][name] for name in inputs})
    return [*lines, ends]
