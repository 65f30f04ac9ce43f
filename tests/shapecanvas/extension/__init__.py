"""Registers ShapeCanvas with ComfyUI, so that CheckpointLoaderSimple opens its checkpoint like any other."""

import functools

import comfy.latent_formats
import comfy.supported_models
from comfy import sd1_clip
from comfy.supported_models_base import BASE, ClipTarget

CONTEXT_DIM = 48
MAX_TOKENS = 32
TEXT_CONFIG = {
    "num_hidden_layers": 2,
    "hidden_size": CONTEXT_DIM,
    "num_attention_heads": 2,
    "intermediate_size": 4 * CONTEXT_DIM,
    "hidden_act": "quick_gelu",
    "eos_token_id": 49407,
    "vocab_size": 49408,
    "max_position_embeddings": MAX_TOKENS,
}


class ShapeCanvasLatent(comfy.latent_formats.LatentFormat):
    latent_channels = 16
    scale_factor = 1.0


class ShapeCanvasTokenizer(sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data=None):
        tokenizer = functools.partial(sd1_clip.SDTokenizer, max_length=MAX_TOKENS, embedding_size=CONTEXT_DIM)
        super().__init__(embedding_directory, tokenizer_data or {}, tokenizer=tokenizer)


class ShapeCanvasTextEncoder(sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        clip_model = functools.partial(
            sd1_clip.SDClipModel,
            max_length=MAX_TOKENS,
            textmodel_json_config=TEXT_CONFIG,
            return_projected_pooled=False,
        )
        super().__init__(device, dtype, model_options or {}, clip_model=clip_model)


class ShapeCanvas(BASE):
    """The UNet is Stable Diffusion's in small: text enters at 8 x 8 on the way down and at 4 x 4 everywhere."""

    unet_config = {
        "in_channels": 16,
        "out_channels": 16,
        "model_channels": 64,
        "num_res_blocks": [1, 1],
        "channel_mult": [1, 2],
        "transformer_depth": [1, 1],
        "transformer_depth_middle": 1,
        "transformer_depth_output": [0, 0, 1, 1],
        "context_dim": CONTEXT_DIM,
        "use_linear_in_transformer": True,
    }
    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}
    latent_format = ShapeCanvasLatent

    def inpaint_model(self):
        return False

    def clip_target(self, state_dict=None):
        return ClipTarget(ShapeCanvasTokenizer, ShapeCanvasTextEncoder)


comfy.supported_models.models.insert(0, ShapeCanvas)

NODE_CLASS_MAPPINGS = {}
