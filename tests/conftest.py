"""For every test: `sae_eraser` is this checkout.

pure/           torch only
with_comfyui/   ComfyUI's modules in this process
live_server/    a real server in a process of its own
browser/        ComfyUI's page in a real browser
"""

import checkout

checkout.import_root()
