"""Published UNets in small: one with diffusers' class and one with ComfyUI's, of the same random weights."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import comfy.model_detection
import torch
from comfy.model_patcher import ModelPatcher
from comfy.utils import unet_to_diffusers
from diffusers import UNet2DConditionModel

from with_comfyui.small_models import small_model

CONTEXT = 64
_CROSS, _CROSS_UP = ("CrossAttnDownBlock2D",), ("CrossAttnUpBlock2D",)
_XL = {
    "use_linear_projection": True,
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "block_out_channels": (320, 640, 1280),
    "attention_head_dim": (5, 10, 20),
    "down_block_types": ("DownBlock2D", *2 * _CROSS),
    "up_block_types": (*2 * _CROSS_UP, "UpBlock2D"),
}
CONFIGS = {
    "SD15": {"cross_attention_dim": 768},
    "SD20": {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
    "SDXL": _XL | {"transformer_layers_per_block": (1, 2, 10)},
    "SDXLRefiner": _XL
    | {
        "cross_attention_dim": 1280,
        "projection_class_embeddings_input_dim": 2560,
        "block_out_channels": (384, 768, 1536, 1536),
        "attention_head_dim": (6, 12, 24, 24),
        "down_block_types": ("DownBlock2D", *2 * _CROSS, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *2 * _CROSS_UP, "UpBlock2D"),
        "transformer_layers_per_block": 4,
    },
    "SSD1B": _XL
    | {
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": (1, 2, 4),
        "reverse_transformer_layers_per_block": ((4, 4, 10), (2, 1, 1), 1),
    },
    "KOALA_700M": _XL
    | {
        "layers_per_block": 1,
        "mid_block_type": None,
        "transformer_layers_per_block": (1, 2, 5),
    },
}
"""By the name of ComfyUI's class, what is published as unet/config.json where it is not diffusers' default."""


def small_unets(family: str) -> tuple[ModelPatcher, UNet2DConditionModel]:
    """ComfyUI's and diffusers'; channels are a tenth and depths, blocks and order are those published."""
    published = CONFIGS[family]
    with torch.device("meta"):
        full = UNet2DConditionModel(**published).state_dict()
    unet_config = comfy.model_detection.unet_config_from_diffusers_unet(full, torch.float32)
    detected = type(comfy.model_detection.model_config_from_unet_config(unet_config))
    assert detected.__name__ == family
    divisor = unet_config["model_channels"] // (64 if family == "SD20" else 32)
    model = small_model(
        detected(unet_config | {"model_channels": unet_config["model_channels"] // divisor, "context_dim": CONTEXT})
    )
    heads = published.get("attention_head_dim", 8)
    with torch.device("meta"):
        peer = UNet2DConditionModel(
            **published
            | {
                "cross_attention_dim": CONTEXT,
                "block_out_channels": [
                    width // divisor for width in published.get("block_out_channels", (320, 640, 1280, 1280))
                ],
                "attention_head_dim": heads if isinstance(heads, int) else [max(1, head // divisor) for head in heads],
            }
        )
    weights = model.model.diffusion_model.state_dict()
    ours = {
        theirs: ours
        for theirs, ours in unet_to_diffusers(model.model.model_config.unet_config).items()
        if ours in weights and theirs in peer.state_dict()
    }
    assert set(ours.values()) == weights.keys()
    peer.load_state_dict({theirs: weights[name] for theirs, name in ours.items()}, assign=True)
    return model, peer.eval()
