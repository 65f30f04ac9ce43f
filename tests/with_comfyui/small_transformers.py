"""Diffusion transformers that ComfyUI builds, in small, which take the small world's texts."""

import comfy.supported_models as supported
from comfy.model_patcher import ModelPatcher

from with_comfyui.small_models import small_model

TEXT = 48
"""Width of the small world's text encoder."""

CONFIGS = {
    "SD3": (
        supported.SD3,
        {
            "in_channels": 16,
            "depth": 2,
            "num_blocks": 3,
            "adm_in_channels": TEXT,
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": TEXT, "out_features": 128},
            },
            "num_patches": 24 * 24,
            "pos_embed_max_size": 24,
            "qk_norm": "rms",
            "x_block_self_attn_layers": [0],
        },
    ),
    "Flux": (
        supported.Flux,
        {
            "guidance_embed": True,
            "in_channels": 16,
            "out_channels": 16,
            "vec_in_dim": TEXT,
            "context_in_dim": TEXT,
            "hidden_size": 64,
            "mlp_ratio": 4.0,
            "num_heads": 2,
            "depth": 2,
            "depth_single_blocks": 2,
            "axes_dim": [8, 12, 12],
            "theta": 10000,
            "patch_size": 2,
            "qkv_bias": True,
            "txt_ids_dims": [],
        },
    ),
    "AuraFlow": (
        supported.AuraFlow,
        {
            "dim": 64,
            "n_layers": 3,
            "n_double_layers": 1,
            "n_heads": 2,
            "global_conddim": 64,
            "cond_seq_dim": TEXT,
            "max_seq": 24 * 24,
        },
    ),
    "PixArtSigma": (
        supported.PixArtSigma,
        {"hidden_size": 64, "depth": 2, "num_heads": 2, "caption_channels": TEXT, "micro_condition": False},
    ),
    "Lumina2": (
        supported.Lumina2,
        {
            "in_channels": 16,
            "dim": 96,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "n_kv_heads": 1,
            "cap_feat_dim": TEXT,
            "axes_dims": [16, 16, 16],
            "qk_norm": True,
        },
    ),
    "ZImage": (
        supported.ZImage,
        {
            "in_channels": 16,
            "dim": 256,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "cap_feat_dim": TEXT,
            "axes_dims": [32, 48, 48],
            "qk_norm": True,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "pad_tokens_multiple": 32,
        },
    ),
    "QwenImage": (
        supported.QwenImage,
        {
            "num_layers": 2,
            "attention_head_dim": 32,
            "num_attention_heads": 2,
            "joint_attention_dim": TEXT,
            "axes_dims_rope": (8, 12, 12),
        },
    ),
    "WAN21_T2V": (
        supported.WAN21_T2V,
        {
            "model_type": "t2v",
            "patch_size": (1, 2, 2),
            "dim": 64,
            "ffn_dim": 128,
            "freq_dim": 64,
            "num_heads": 2,
            "num_layers": 2,
            "in_dim": 16,
            "out_dim": 16,
            "text_dim": TEXT,
        },
    ),
}
"""By the name of ComfyUI's class."""


def small_transformer(family: str, seed: int = 0) -> ModelPatcher:
    config, unet_config = CONFIGS[family]
    return small_model(config(config.unet_config | unet_config), seed)
