"""Tiled samplers call the model with cut-outs of changing place and shape."""

import torch
from comfy_extras.nodes_context_windows import ContextWindowsManualNode

from with_comfyui.random_files import UP
from with_comfyui.sampling import differs, erase

TILES = [
    (slice(0, 8), slice(0, 8)),
    (slice(0, 8), slice(6, 13)),
    (slice(5, 11), slice(0, 8)),
    (slice(5, 11), slice(6, 13)),
]


def tiled(model, order, calls: list):
    """A clone that samples tile by tile, as tiled diffusion does; `calls` receives what each tile was given and got."""

    def wrapper(apply_model, arguments):
        x, sigma = arguments["input"], arguments["timestep"]
        total, count = torch.zeros_like(x), torch.zeros_like(x)
        for rows, columns in order:
            tile = x[:, :, rows, columns]
            result = apply_model(tile, sigma, **arguments["c"])
            calls.append((tile.clone(), sigma.clone(), dict(arguments["c"]), result.clone()))
            total[:, :, rows, columns] += result
            count[:, :, rows, columns] += 1
        return total / count

    clone = model.clone()
    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def in_windows(model, length: int, dim: int, causal: bool = False, schedule: str = "standard_static"):
    """A clone that ComfyUI's context windows sample in parts of this length in one direction of the latents."""
    window = {"context_length": length, "context_overlap": 0, "context_stride": 1, "dim": dim}
    how = {"context_schedule": schedule, "closed_loop": False, "fuse_method": "flat", "freenoise": False}
    return ContextWindowsManualNode.execute(model, **window, **how, causal_window_fix=causal).result[0]


def test_each_tile_is_erased_as_it_is_alone(model, sample):
    erased, calls = erase(erase(model), sae=UP), []
    latents = sample(tiled(erased, TILES, calls), steps=2, size=(11, 13))
    assert {tuple(tile.shape[2:]) for tile, *_ in calls} == {(8, 8), (8, 7), (6, 8), (6, 7)}
    for tile, sigma, conds, result in calls:
        alone = erase(erase(model), sae=UP)
        options = conds.pop("transformer_options")
        with torch.no_grad():
            expected, plain = (
                patcher.model.apply_model(
                    tile, sigma, transformer_options=options | {"wrappers": patcher.wrappers}, **conds
                )
                for patcher in (alone, model)
            )
        assert torch.equal(result, expected)
        assert not torch.equal(result, plain)
    assert differs(latents, sample(tiled(model, TILES, []), steps=2, size=(11, 13)))


def test_the_order_of_the_tiles_does_not_matter(model, sample):
    erased = erase(erase(model), sae=UP)
    one_way, other_way = (sample(tiled(erased, order, []), steps=2, size=(11, 13)) for order in (TILES, TILES[::-1]))
    torch.testing.assert_close(one_way, other_way, rtol=1e-4, atol=1e-4)
