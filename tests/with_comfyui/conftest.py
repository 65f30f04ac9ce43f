"""ComfyUI's modules in this process: files in this folder may import them at their top."""

import functools
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from comfy_process import become_comfyui, load_pack, load_small_world

_temporary = tempfile.TemporaryDirectory(prefix="sae-eraser-")
BASE = Path(_temporary.name)

become_comfyui(BASE)


@pytest.fixture(scope="session")
def comfyui() -> SimpleNamespace:
    """ComfyUI's `nodes` module, with the small world loaded, and its base directory."""
    import nodes

    load_small_world()
    return SimpleNamespace(nodes=nodes, base=BASE)


@pytest.fixture(scope="session")
def pack(comfyui: SimpleNamespace) -> ModuleType:
    """The pack as ComfyUI's loader leaves it."""
    return load_pack(BASE)


@pytest.fixture(scope="session")
def world(pack):
    """The small world's checkpoint, opened and loaded by ComfyUI, and its classifier."""
    import comfy.model_management

    from shapecanvas.world import open_world

    world = open_world()
    comfy.model_management.load_models_gpu([world.model])  # a schedule that a GPU works out is another in its last bits
    return world


@pytest.fixture(scope="session")
def model(world):
    """The small world's model, with SAEs of random weights for it in models/sae."""
    from with_comfyui.random_files import write_random_saes

    write_random_saes(BASE / "models" / "sae")
    return world.model


@pytest.fixture(scope="session")
def sample(world):
    """sample(model, ...) -> latents, see sampling.sample_with."""
    from with_comfyui.sampling import sample_with

    return functools.partial(sample_with, world.clip)


@pytest.fixture
def encodes(pack, monkeypatch) -> list:
    """Grows by one at every encode of an edit whose latents all detect."""
    from sae_eraser.sae_ops.chosen_latents import ChosenLatents

    calls, before_topk = [], ChosenLatents.before_topk
    monkeypatch.setattr(ChosenLatents, "before_topk", lambda self, maps: calls.append(1) or before_topk(self, maps))
    return calls
