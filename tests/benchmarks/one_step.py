"""One step of a real UNet with random weights in bf16: prints its seconds, keeps what passes at the hookpoint.

erase_speed.py starts it.
"""

import argparse
import functools
import json
import os
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.device import DEVICE, wait
from checkout import import_root
from comfy_process import become_comfyui

MODELS = {
    "SD15": {
        "channel_mult": [1, 2, 4, 4],
        "num_res_blocks": [2, 2, 2, 2],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_middle": 1,
        "transformer_depth_output": [1] * 9 + [0] * 3,
        "context_dim": 768,
        "num_heads": 8,
        "use_linear_in_transformer": False,
    },
    "SDXL": {
        "channel_mult": [1, 2, 4],
        "num_res_blocks": [2, 2, 2],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_middle": 10,
        "transformer_depth_output": [0] * 3 + [2] * 3 + [10] * 3,
        "context_dim": 2048,
        "num_head_channels": 64,
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
    },
}
"""What ComfyUI finds in the published checkpoints."""
HOOKPOINTS = {"SD15": "up_blocks.1.attentions.1", "SDXL": "up_blocks.0.attentions.1"}
LATENTS = {"SD15": 64, "SDXL": 128}
STEPS = {"SD15": 3, "SDXL": 2} if DEVICE.type == "cpu" else {"SD15": 20, "SDXL": 20}
"""The first is slower; the fastest counts, of which an edit is the largest share."""


def main() -> None:
    import_root()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    config = MODELS[options.model]
    if DEVICE.type == "cuda":
        os.environ["COMFYUI_ARGS"] = ""
    with tempfile.TemporaryDirectory() as base:
        become_comfyui(Path(base))
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    from sae_eraser.sae_ops.hookpoints import find_hookpoint

    common = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "dtype": torch.bfloat16}
    operations = comfy.ops.disable_weight_init
    model = UNetModel(**common, **config, use_spatial_transformer=True, legacy=False, operations=operations)
    model.eval().to(DEVICE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, device=DEVICE) / max(1, parameter[0].numel()) ** 0.5)
        seen: list[torch.Tensor] = []
        block = model.get_submodule(find_hookpoint(model, HOOKPOINTS[options.model]).path)
        block.register_forward_hook(lambda module, inputs, output: seen.append(output))
        side = LATENTS[options.model]
        random = functools.partial(torch.randn, dtype=torch.bfloat16, device=DEVICE)
        inputs = {
            "x": random(2, 4, side, side),
            "timesteps": torch.tensor([500.0, 500.0], device=DEVICE),
            "context": random(2, 77, config["context_dim"]),
            "y": random(2, 2816) if "adm_in_channels" in config else None,
        }
        seconds = []
        for _ in range(STEPS[options.model]):
            wait()
            began = time.perf_counter()
            model(**inputs)
            wait()
            seconds.append(time.perf_counter() - began)
    save_file({"x": torch.nan_to_num(seen[-1]).contiguous()}, options.out)
    print(json.dumps({"seconds": min(seconds)}))


if __name__ == "__main__":
    main()
