"""Finds the place of an SAE in the user's model or CLIP, and refuses an SAE that was made for another."""

from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP

from ...sae_ops.hookpoints import Hookpoint
from ...sae_ops.text_hookpoints import is_text_hookpoint
from ..files.sae_files import LoadedSAE
from .block_hooks import model_family, resolve_hookpoint
from .text_hooks import resolve_text_hookpoint


def resolve_sae(model: ModelPatcher, sae: LoadedSAE) -> Hookpoint:
    """The SAE's place in the model.

    Raises ValueError if the SAE was made for a text encoder, another model family or another width, HookpointError if
    the block is missing.
    """
    if is_text_hookpoint(sae.header.hookpoint):
        raise ValueError(
            f"The SAE '{sae.name}' belongs to a text encoder ({sae.header.hookpoint}). Use Erase Concept from Text "
            "with it, before CLIP Text Encode."
        )
    family = model_family(model)
    if sae.header.model_family != family:
        raise ValueError(
            f"The SAE '{sae.name}' was made for {sae.header.model_family} models, but this model is {family}. "
            f"Choose an SAE made for {family}, or load a {sae.header.model_family} checkpoint."
        )
    hookpoint = resolve_hookpoint(model, sae.header.hookpoint)
    _check_width(sae, hookpoint, "model")
    return hookpoint


def resolve_sae_in_text(clip: CLIP, sae: LoadedSAE) -> Hookpoint:
    """The SAE's place in the text encoders of the CLIP.

    Raises ValueError if the SAE was made for a diffusion model or another width, HookpointError if the layer is
    missing. The model family is not compared: SD1.5, SDXL, SD3 and Flux have the same CLIP-L.
    """
    if not is_text_hookpoint(sae.header.hookpoint):
        raise ValueError(
            f"The SAE '{sae.name}' belongs to {sae.header.hookpoint} of the diffusion model, not to a text encoder. "
            "Use Erase Concept with it, between the checkpoint loader and the sampler."
        )
    hookpoint = resolve_text_hookpoint(clip, sae.header.hookpoint)
    _check_width(sae, hookpoint, "CLIP")
    return hookpoint


def _check_width(sae: LoadedSAE, hookpoint: Hookpoint, owner: str) -> None:
    """Raises ValueError if the SAE reads another width than the hookpoint of this owner, "model" or "CLIP", has."""
    if hookpoint.width != sae.header.autoencoder.d_in:
        raise ValueError(
            f"The SAE '{sae.name}' reads {sae.header.autoencoder.d_in} channels, but {hookpoint.name} has "
            f"{hookpoint.width} in this {owner}. Choose an SAE made for it."
        )
