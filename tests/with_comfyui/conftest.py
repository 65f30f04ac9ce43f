"""ComfyUI's modules in this process: files in this folder may import them at their top."""

import asyncio
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from checkout import ROOT
from comfy_server import COMFYUI, SHAPECANVAS, arguments, prepare_base

_temporary = tempfile.TemporaryDirectory(prefix="sae-eraser-")
BASE = Path(_temporary.name)


def _become_comfyui() -> None:
    """Find ComfyUI's modules before any other, and let them read the server's arguments."""
    prepare_base(BASE)
    sys.path.insert(0, str(COMFYUI))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["main.py", *arguments(BASE)])
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args  # noqa: F401


_become_comfyui()


@pytest.fixture(scope="session")
def comfyui() -> SimpleNamespace:
    """ComfyUI's `nodes` module, with the small world loaded, and its base directory."""
    import nodes

    assert asyncio.run(nodes.load_custom_node(str(SHAPECANVAS / "extension")))
    return SimpleNamespace(nodes=nodes, base=BASE)


@pytest.fixture(scope="session")
def pack(comfyui: SimpleNamespace) -> ModuleType:
    """The pack as ComfyUI's loader leaves it.

    The loader names a pack's module after the path it is given. This one is `sae_eraser`, so that
    a test which imports `sae_eraser.nodes` has the very modules that ComfyUI has.
    """
    imported_before = vars(sys.modules["sae_eraser"])
    (BASE / "sae_eraser").symlink_to(ROOT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(BASE)
        assert asyncio.run(comfyui.nodes.load_custom_node("sae_eraser"))
    package = sys.modules["sae_eraser"]
    vars(package).update(imported_before | vars(package))
    return package
