"""All weights of the encoders that need them, in the hands of ComfyUI's memory manager."""

import weakref

from comfy import model_management
from comfy.model_patcher import ModelPatcher

from ...sae_ops.autoencoder import SparseAutoencoder
from ...sae_ops.chosen_latents import encoder_of
from .sae_files import LoadedSAE

_encoders: weakref.WeakKeyDictionary[LoadedSAE, ModelPatcher] = weakref.WeakKeyDictionary()


def whole_encoder(sae: LoadedSAE) -> ModelPatcher | None:
    """The SAE's encoder with all its weights, always the same; None unless the activation is topk, which needs them."""
    if sae.autoencoder.config.activation != "topk":
        return None
    if sae not in _encoders:
        _encoders[sae] = _load_encoder(sae.autoencoder)
    return _encoders[sae]


def _load_encoder(autoencoder: SparseAutoencoder) -> ModelPatcher:
    device, storage = model_management.get_torch_device(), model_management.unet_offload_device()
    encoder = ModelPatcher(encoder_of(autoencoder, device), load_device=device, offload_device=storage)
    encoder.cached_patcher_init = _load_encoder, (autoencoder,)  # for ComfyUI to make another for another GPU
    return encoder
