"""The table of hookpoints, on SD1.5's and SDXL's UNets as ComfyUI builds them, without weights."""

import comfy.ops
import pytest
import torch
from comfy.ldm.flux.model import Flux
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.utils import unet_to_diffusers

from sae_eraser.sae_ops.hookpoints import HookpointError, find_hookpoint, list_hookpoints

SD15 = {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "context_dim": 768,
    "num_heads": 8,
}
SDXL = {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "context_dim": 2048,
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
}


def build(config: dict) -> UNetModel:
    """On the meta device: shapes alone."""
    return UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        use_spatial_transformer=True,
        legacy=False,
        **config,
        device="meta",
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )


@pytest.fixture(scope="module")
def unets() -> dict[str, UNetModel]:
    return {"SD15": build(SD15), "SDXL": build(SDXL)}


@pytest.mark.parametrize(
    "family, name, path",
    [
        ("SD15", "up_blocks.1.attentions.1", "output_blocks.4.1"),
        ("SD15", "up_blocks.1.attentions.2", "output_blocks.5.1"),
        ("SD15", "mid_block.attentions.0", "middle_block.1"),
        ("SD15", "down_blocks.2.attentions.1", "input_blocks.8.1"),
        ("SD15", "down_blocks.3.resnets.1", "input_blocks.11.0"),
        ("SDXL", "down_blocks.2.attentions.1", "input_blocks.8.1"),
        ("SDXL", "up_blocks.0.attentions.0", "output_blocks.0.1"),
        ("SDXL", "mid_block.attentions.0", "middle_block.1"),
    ],
)
def test_a_block_has_diffusers_name_and_comfyuis_path(unets, family, name, path):
    by_name = find_hookpoint(unets[family], name)
    assert (by_name.name, by_name.path) == (name, path)
    for other in (path, f"unet.{name}", f"diffusion_model.{path}", f" {name} "):
        assert find_hookpoint(unets[family], other) == by_name


@pytest.mark.parametrize("family, config", [("SD15", SD15), ("SDXL", SDXL)])
def test_the_table_is_the_one_by_which_comfyui_converts_diffusers_models(unets, family, config):
    weights = unet_to_diffusers(config)
    expected = {}
    for diffusers, comfyui in weights.items():
        for marker in (".norm.weight", ".norm1.weight"):
            name, found, _ = diffusers.partition(marker)
            if found and ".transformer_blocks." not in name:
                path = comfyui.removesuffix(".in_layers.0.weight").removesuffix(".norm.weight")
                expected[name] = path
    assert {point.name: point.path for point in list_hookpoints(unets[family])} == expected


@pytest.mark.parametrize("family, config", [("SD15", SD15), ("SDXL", SDXL)])
def test_the_width_is_what_the_block_puts_out(unets, family, config):
    unet, widths, order = unets[family], {}, []
    hookpoints = list_hookpoints(unet)
    handles = []
    for point in hookpoints:

        def note(block, inputs, output, name=point.name):
            widths[name] = output.shape[1]
            order.append(name)

        handles.append(unet.get_submodule(point.path).register_forward_hook(note))
    options = {"optimized_attention_override": lambda attention, q, *args, **kwargs: q}  # it asks for free memory
    with torch.device("meta"):
        context = torch.zeros(1, 77, config["context_dim"])
        unet(torch.zeros(1, 4, 16, 16), torch.zeros(1), context, transformer_options=options)
    for handle in handles:
        handle.remove()
    assert widths == {point.name: point.width for point in hookpoints}
    assert order == [point.name for point in hookpoints], "they are listed in the order in which they run"


@pytest.mark.parametrize("family", ["SD15", "SDXL"])
def test_names_and_paths_are_unique(unets, family):
    hookpoints = list_hookpoints(unets[family])
    assert len({point.name for point in hookpoints}) == len({point.path for point in hookpoints}) == len(hookpoints)


def test_the_small_world_has_the_same_names(world):
    names = [point.name for point in list_hookpoints(world.model.model.diffusion_model)]
    assert [name for name in names if "attentions" in name] == [
        "down_blocks.0.attentions.0",
        "down_blocks.1.attentions.0",
        "mid_block.attentions.0",
        "up_blocks.0.attentions.0",
        "up_blocks.0.attentions.1",
    ]


def test_an_unknown_name_lists_those_there_are(unets):
    with pytest.raises(HookpointError, match="no hookpoint 'up_blocks.9'.*mid_block.attentions.0, .*up_blocks.3"):
        find_hookpoint(unets["SD15"], "up_blocks.9")


def test_a_model_that_is_no_unet_is_refused():
    flux = Flux.__new__(Flux)
    torch.nn.Module.__init__(flux)
    with pytest.raises(HookpointError, match="Flux is not a UNet.*SD1.5, SD2 and SDXL"):
        list_hookpoints(flux)
