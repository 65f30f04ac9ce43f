"""Texts that ComfyUI's page shows at a node while it runs."""

from server import PromptServer


def say_at_node(text: str, node_id: str | None) -> None:
    """Shows the text at the node; nowhere without a node, or in a ComfyUI without a server."""
    server = getattr(PromptServer, "instance", None)
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)
