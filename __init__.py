"""SAE Eraser: takes concepts out of what a diffusion model can draw, with supervised sparse autoencoders."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes import SAEEraserExtension

    return SAEEraserExtension()
