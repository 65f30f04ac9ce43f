"""ComfyUI's own model classes with small widths and random weights, behind a ModelPatcher."""

import math

import torch
from comfy.model_patcher import ModelPatcher
from comfy.supported_models_base import BASE

from sae_eraser.nodes.hooks.block_hooks import with_hooks
from sae_eraser.nodes.hooks.forward_hooks import BlockHook
from sae_eraser.sae_ops.hookpoints import list_hookpoints


def small_model(config: BASE, seed: int = 0) -> ModelPatcher:
    """The model that ComfyUI builds of this config (see comfy.supported_models), on the CPU in fp32."""
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device=torch.device("cpu"))
    randomize(model.diffusion_model, seed)
    return ModelPatcher(model.eval(), load_device=torch.device("cpu"), offload_device=torch.device("cpu"))


@torch.no_grad()
def randomize(module: torch.nn.Module, seed: int) -> None:
    """Weights with which every layer puts out about as much as it gets; none of them is zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim > 1:
                tensor.copy_(noise / math.sqrt(tensor[0].numel()))
            else:
                tensor.copy_(0.1 * noise + (1.0 if name.endswith(("weight", "scale")) else 0.0))


def call_model(model: ModelPatcher, x: torch.Tensor, sigma: torch.Tensor, **conds) -> torch.Tensor:
    """One call as ComfyUI's samplers make it: x [images, ...], sigma [images], all of them of the prompt."""
    x, sigma = x.to(model.load_device), sigma.to(model.load_device)
    conds = {key: cond.to(x.device) if isinstance(cond, torch.Tensor) else cond for key, cond in conds.items()}
    options = model.model_options["transformer_options"] | {
        "wrappers": model.wrappers,
        "sigmas": sigma,
        "cond_or_uncond": [0],
    }
    with torch.no_grad():
        return model.model.apply_model(x, sigma, transformer_options=options, **conds)


def with_recorder(model: ModelPatcher, hooked: str = "output") -> tuple[ModelPatcher, dict[str, list[torch.Tensor]]]:
    """A clone of the model, and what will pass at each of its hookpoints that have it, call by call."""
    seen: dict[str, list[torch.Tensor]] = {}

    def recorder(name: str):
        def record(x, sigma, is_cond):
            seen.setdefault(name, []).append(x.clone())
            return x

        return record

    points = list_hookpoints(model.model.diffusion_model)
    hooks = [
        BlockHook(point, hooked, recorder(point.name)) for point in points if hooked == "output" or point.has_residual
    ]
    return with_hooks(model, tuple(hooks)), seen


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference of two tensors of one shape, as a share of the largest number expected."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())
