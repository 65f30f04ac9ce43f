"""For every test: `sae_eraser` is this checkout.

pure/           torch only
with_comfyui/   ComfyUI's modules in this process
live_server/    a real server in a process of its own
browser/        ComfyUI's page in a real browser
"""

import checkout

checkout.import_root()

LONGEST = ("test_shipped_sae.py", "test_shapecanvas.py")
"""Files that take minutes. They are begun first, so that one process does not end with them while the other waits."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONGEST)
