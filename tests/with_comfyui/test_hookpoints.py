"""The table of hookpoints, on SD1.5's and SDXL's UNets as ComfyUI builds them, without weights."""

import comfy.ops
import pytest
import torch
from comfy.ldm.hydit.models import HunYuanDiT
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.utils import unet_to_diffusers

from sae_eraser.nodes.hooks.forward_hooks import BlockHook
from sae_eraser.sae_ops.hookpoints import HookpointError, find_hookpoint, is_hookpoint_name, list_hookpoints
from with_comfyui.small_models import call_model, relative_error, with_recorder

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


def test_all_names_and_paths_are_known_as_such(unets):
    points = [point for unet in unets.values() for point in list_hookpoints(unet)]
    assert points
    for point in points:
        assert all(is_hookpoint_name(name) for name in (point.name, point.path, f"unet.{point.name}"))


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


def test_resnets_that_resample_have_the_names_of_resamplers():
    config = SD15 | {"num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [0, 0]}
    config |= {"transformer_depth_output": [0, 0, 0, 0], "resblock_updown": True}
    points = list_hookpoints(build(config))
    assert [(point.name, point.path, point.width, point.has_residual) for point in points] == [
        ("down_blocks.0.resnets.0", "input_blocks.1.0", 320, True),
        ("down_blocks.0.downsamplers.0", "input_blocks.2.0", 320, False),
        ("down_blocks.1.resnets.0", "input_blocks.3.0", 640, False),
        ("mid_block.resnets.0", "middle_block.0", 640, True),
        ("mid_block.attentions.0", "middle_block.1", 640, True),
        ("mid_block.resnets.1", "middle_block.2", 640, True),
        ("up_blocks.0.resnets.0", "output_blocks.0.0", 640, False),
        ("up_blocks.0.resnets.1", "output_blocks.1.0", 640, False),
        ("up_blocks.0.upsamplers.0", "output_blocks.1.1", 640, False),
        ("up_blocks.1.resnets.0", "output_blocks.2.0", 320, False),
        ("up_blocks.1.resnets.1", "output_blocks.3.0", 320, False),
    ]


def test_a_unet_for_videos_has_the_same_names(unets):
    temporal = {
        "use_temporal_attention": True,
        "use_temporal_resblock": True,
        "video_kernel_size": [3, 1, 1],
        "merge_strategy": "learned_with_images",
        "extra_ff_mix_layer": True,
        "use_spatial_context": True,
    }
    video = build(SD15 | temporal)
    assert list_hookpoints(video) == list_hookpoints(unets["SD15"])


def test_output_minus_input_is_what_a_block_adds(world):
    """At blocks that another hookpoint precedes, with nothing in between."""
    inputs = {"x": torch.randn(1, 16, 8, 8), "sigma": torch.ones(1), "c_crossattn": torch.randn(1, 32, 48)}
    recorded, outputs = with_recorder(world.model)
    call_model(recorded, **inputs)
    recorded, residuals = with_recorder(world.model, "residual")
    call_model(recorded, **inputs)
    for before, after in [
        ("down_blocks.0.resnets.0", "down_blocks.0.attentions.0"),
        ("mid_block.resnets.0", "mid_block.attentions.0"),
        ("mid_block.attentions.0", "mid_block.resnets.1"),
        ("up_blocks.0.resnets.1", "up_blocks.0.attentions.1"),
    ]:
        assert relative_error(residuals[after][0], outputs[after][0] - outputs[before][0]) < 1e-5, after


def test_a_block_that_changes_the_width_has_no_output_minus_input(world):
    point = find_hookpoint(world.model.model.diffusion_model, "up_blocks.0.resnets.0")
    with pytest.raises(HookpointError, match="up_blocks.0.resnets.0 changes the shape.*Hook its output"):
        BlockHook(point, "residual", lambda x, sigma, is_cond: x)


def test_a_model_of_unknown_blocks_is_refused():
    empty = HunYuanDiT.__new__(HunYuanDiT)
    torch.nn.Module.__init__(empty)
    with pytest.raises(HookpointError, match="HunYuanDiT.* not known.*SD1.5, SD2 and SDXL.*Stable Diffusion 3, Flux"):
        list_hookpoints(empty)
