"""Erasing in every way in which ComfyUI keeps models on a GPU and off it. Skipped where there is none."""

from collections.abc import Callable, Iterator

import pytest
import torch

from comfy_server import running_server
from sae_eraser.training.comfyui.server import ComfyUI, run_graph
from sae_eraser.training.evaluation.judging import read_pictures
from shapecanvas.classifier import classify, load_classifier
from shapecanvas.concepts import OBJECTS
from with_comfyui.random_files import UP, write_random_saes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
WAYS = (
    "",  # weights come and go with the memory there is (dynamic VRAM)
    "--reserve-vram 1000",  # the same with none left
    "--disable-dynamic-vram",
    "--disable-dynamic-vram --reserve-vram 1000",  # every weight is loaded when its turn comes
    "--disable-dynamic-vram --lowvram",
    "--novram",
    "--highvram",
    "--gpu-only",
    "--fp8_e4m3fn-unet",
    "--fp16-unet",
)
STARS = 8

Draw = Callable[..., torch.Tensor]


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: way or "as ComfyUI likes")
def draw(request) -> Iterator[Draw]:
    """draw(eraser) -> stars [STARS, 64, 64, 3] in 0..1 of the same seeds, by a server of its own; see stars()."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMFYUI_ARGS", request.param)
        with running_server() as server:
            write_random_saes(server.base / "models" / "sae")
            comfyui = ComfyUI(server.url)

            def run(*eraser: str, node: str = "SAEEraser_EraseConcept", strength: float = 1.0) -> torch.Tensor:
                images = run_graph(comfyui, stars(node, strength, *eraser))["outputs"]["save"]["images"]
                paths = [server.base / "output" / image["filename"] for image in images]
                return read_pictures(paths).float() / 255

            yield run


def stars(node: str, strength: float, sae: str = "", concept: str = "") -> dict:
    """A workflow in the API's format; without an SAE nothing is erased."""
    eraser = {"sae": sae, "sae.concept": concept, "strength": strength, "mode": "turn"}
    model, positive, nodes = ["checkpoint", 0], ["prompt", 0], {}
    if sae and node == "SAEEraser_EraseConcept":
        parts = {"model": model, "start_percent": 0.0, "end_percent": 1.0, "branch": "both"}
        nodes["eraser"], model = (node, eraser | parts), ["eraser", 0]
    elif sae:
        nodes["eraser"] = (node, eraser)
        hooked = {"cond_NEW": positive, "hooks": ["eraser", 0], "strength": 1.0, "set_cond_area": "default"}
        nodes["props"], positive = ("ConditioningSetProperties", hooked), ["props", 0]
    sampling = {"seed": 3, "steps": 20, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": model, "positive": positive, "negative": ["nothing", 0], "latent_image": ["latent", 0]}
    nodes |= {
        "checkpoint": ("CheckpointLoaderSimple", {"ckpt_name": "shapecanvas.safetensors"}),
        "prompt": ("CLIPTextEncode", {"clip": ["checkpoint", 1], "text": "a star in neon style"}),
        "nothing": ("CLIPTextEncode", {"clip": ["checkpoint", 1], "text": ""}),
        "latent": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": STARS}),
        "sample": ("KSampler", sampling | links),
        "decode": ("VAEDecode", {"samples": ["sample", 0], "vae": ["checkpoint", 2]}),
        "save": ("SaveImage", {"images": ["decode", 0], "filename_prefix": "star"}),
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def seen(pictures: torch.Tensor) -> int:
    """How many are stars."""
    return (classify(load_classifier(), pictures)[0] == OBJECTS.index("star")).sum().item()


def test_it_erases(draw: Draw):
    assert seen(draw()) >= STARS - 1
    for node in ("SAEEraser_EraseConcept", "SAEEraser_EraseConceptHook"):
        assert seen(draw("sae_shapecanvas_objects.safetensors", "star", node=node)) <= 1, node


def test_an_sae_whose_encoder_is_loaded_with_the_model_erases(draw: Draw):
    draw()  # ComfyUI works out noise levels where the model lies, at first on the CPU, which rounds some otherwise
    plain, silent = draw(UP, "silent", strength=0.0), draw(UP, "silent")
    again, erased = draw(UP, "disc", strength=0.0), draw(UP, "disc")
    assert torch.equal(again, plain), "without an eraser this ComfyUI draws two different pictures of one seed"
    assert torch.equal(silent, plain), f"differ by up to {(silent - plain).abs().max():.3f}"
    assert (erased - plain).abs().amax(dim=(1, 2, 3)).min() > 0.2
