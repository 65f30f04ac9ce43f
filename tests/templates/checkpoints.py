"""The models of the templates, and which of them a ComfyUI lacks."""

from comfy_server import Server

LOADER = "CheckpointLoaderSimple"
SHAPECANVAS = "shapecanvas.safetensors"
SD15 = "v1-5-pruned-emaonly-fp16.safetensors"
SDXL = "sd_xl_base_1.0.safetensors"
ADDRESSES = {
    SD15: f"https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/{SD15}",
    SDXL: f"https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/{SDXL}",
}
"""Where to get those that anyone can download."""


def missing_checkpoints(server: Server, workflow: dict) -> list[str]:
    """Those that the workflow loads and that are not installed."""
    (installed, *_), *_ = server.request(f"/object_info/{LOADER}")[LOADER]["input"]["required"].values()
    wanted = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == LOADER]
    return [name for name in wanted if name not in installed]
