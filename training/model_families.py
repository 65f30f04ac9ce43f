"""ComfyUI's names of model families, which are those of its config classes, and what else people call them."""

import re

MODEL_FAMILIES = (
    *("SD15", "SD15_instructpix2pix", "SD20", "SD21UnclipL", "SD21UnclipH", "SDXL", "SDXL_instructpix2pix"),
    *("SDXLRefiner", "SSD1B", "Segmind_Vega", "KOALA_700M", "KOALA_1B", "LotusD", "SVD_img2vid", "Stable_Zero123"),
    *("SD3", "Flux", "FluxInpaint", "FluxSchnell", "Flux2", "Chroma", "HunyuanVideo", "AuraFlow", "PixArtAlpha"),
    *("PixArtSigma", "Lumina2", "ZImage", "QwenImage", "WAN21_T2V", "WAN21_I2V", "WAN22_T2V"),
)
"""Those with hookpoints that are met most; the models that a user has may be of others."""
_ALIASES = {
    "SD15": ("sd1", "sd14", "sdv14", "sdv15"),
    "SD20": ("sd2", "sd21", "sdv2", "sdv20", "sdv21"),
    "SD3": ("sd35", "sd3medium", "sd35medium", "sd35large"),
    "SDXL": ("sdxl10", "sdxlbase", "sdxlbase10"),
    "Flux": ("flux1", "flux1dev", "fluxdev"),
    "FluxSchnell": ("flux1schnell",),
}


def other_spelling_of(name: str) -> str | None:
    """The family that ComfyUI calls otherwise, "SD15" for "SD 1.5"; None if this is a name of ComfyUI, or unknown."""
    if name in MODEL_FAMILIES:
        return None
    wanted = _plain(name)
    return next((known for known in MODEL_FAMILIES if wanted in (_plain(known), *_ALIASES.get(known, ()))), None)


def _plain(name: str) -> str:
    """The letters and digits alone, all small."""
    return re.sub(r"[\W_]", "", name.casefold()).replace("stablediffusion", "sd")
