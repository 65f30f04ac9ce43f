"""A real ComfyUI inside this process, with the pack and the small world loaded as ComfyUI loads them."""

import asyncio
import os
import sys
from pathlib import Path
from types import ModuleType

import checkout
from comfy_server import COMFYUI, SHAPECANVAS, arguments, place_link, prepare_base


def become_comfyui(base: Path) -> None:
    """Finds ComfyUI's modules before any other, and lets them read the server's arguments."""
    prepare_base(base)
    sys.path.insert(0, str(COMFYUI))
    argv, sys.argv = sys.argv, ["main.py", *arguments(base)]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args  # noqa: F401
    finally:
        sys.argv = argv


def load_small_world() -> None:
    """Registers ShapeCanvas with ComfyUI through its extension."""
    import nodes

    assert asyncio.run(nodes.load_custom_node(str(SHAPECANVAS / "extension")))


def load_pack(base: Path) -> ModuleType:
    """The pack as ComfyUI's loader leaves it.

    The loader names a pack's module after the path it is given. This one is `sae_eraser`, so that code which imports
    `sae_eraser.nodes` has the very modules that ComfyUI has.
    """
    import nodes

    if "sae_eraser" not in sys.modules:
        checkout.import_root()
    imported_before = vars(sys.modules["sae_eraser"])
    place_link(base / "sae_eraser", checkout.ROOT)
    folder = os.getcwd()
    os.chdir(base)
    try:
        assert asyncio.run(nodes.load_custom_node("sae_eraser"))
    finally:
        os.chdir(folder)
    package = sys.modules["sae_eraser"]
    vars(package).update(imported_before | vars(package))
    return package
