"""The pack behind ComfyUI's loader."""

import sys


def test_every_node_comes_from_the_pack(pack, comfyui):
    nodes = comfyui.nodes.NODE_CLASS_MAPPINGS.values()
    loaded = [n for n in nodes if getattr(n, "RELATIVE_PYTHON_MODULE", "") == "custom_nodes.sae_eraser"]
    assert loaded
    assert all(node.__module__.startswith("sae_eraser.nodes.") for node in loaded)


def test_no_module_of_the_pack_is_loaded_twice(pack):
    assert [name for name in sys.modules if name.endswith(".sae_ops")] == ["sae_eraser.sae_ops"]
