"""Where in a model another tool's SAE belongs, as far as its settings and the names of its folders tell."""

import re
from dataclasses import dataclass

from .checkpoint import Checkpoint

_DIFFUSERS = re.compile(
    r"(?:(?<!\.)|(?<=\bunet\.))(?:(?:down|up)_blocks\.\d+|mid_block)\.(?:attentions|resnets)\.\d+(?!\d|\.[a-z])"
)
"""The block itself, of the UNet: no module within it, and none of a VAE or a ControlNet."""
_SHORT = {
    "down.2.1": "down_blocks.2.attentions.1",
    "mid.0": "mid_block.attentions.0",
    "up.0.0": "up_blocks.0.attentions.0",
    "up.0.1": "up_blocks.0.attentions.1",
}
"""sdxl-unbox's names."""
_SHORT_NAMES = re.compile(rf"(?<![a-zA-Z0-9.])({'|'.join(map(re.escape, _SHORT))})(?![\d.])")


@dataclass(frozen=True)
class Origin:
    """Each field is "" if nothing tells it."""

    hookpoint: str
    """diffusers' name of the block."""
    model_family: str
    """ComfyUI's name of the model."""
    hooked: str
    """Which tensor of the block; only our own exports say so."""


def named_origin(checkpoint: Checkpoint) -> Origin:
    """What the settings say, or else the names of the file and of the folders it lies in."""
    metadata = checkpoint.config.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    family, hooked = (str(metadata.get(f"sae_eraser_{field}") or "") for field in ("model_family", "hooked"))
    hook_name = str(metadata.get("hook_name") or "")
    if "sae_eraser_hooked" in metadata:  # our own export: a block of any model, by the name that it has here
        return Origin(hook_name, family, hooked)
    path = checkpoint.path.absolute()
    for name in (hook_name, path.stem, *(folder.name for folder in path.parents[:3])):
        if found := _DIFFUSERS.search(name):
            return Origin(found[0], family, hooked)
        if short := _SHORT_NAMES.search(name):
            return Origin(_SHORT[short[1]], "SDXL", hooked)
    return Origin("", family, hooked)
