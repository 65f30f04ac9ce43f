"""The loop by which every stage is trained, and what its modules need before."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm


def save_atomically(save: Callable, content, path: Path) -> None:
    """Writes the content by save(content, file)."""
    from sae_eraser.sae_ops.atomic_write import write_atomically

    write_atomically(path, lambda part: save(content, part))


def fit(
    name: str,
    work: Path,
    modules: dict[str, torch.nn.Module],
    loss_of: Callable[[int, torch.Generator], torch.Tensor],
    steps: int,
    learning_rate: float,
    ema: float = 0.0,
) -> None:
    """Minimises loss_of(step, generator) over all parameters of the modules and leaves their (averaged) weights in.

    Adam, gradient clip 1.0, the learning rate held for half the steps and then falling to 3 %. Step i draws from a
    generator seeded with i, so a run that was stopped goes on as if it had not been.
    """
    path = work / f"{name}.pt"
    container = torch.nn.ModuleDict(modules)
    parameters = list(container.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, fused=True)
    average = [p.detach().clone() for p in parameters] if ema else []
    start, smooth = 0, None
    if path.exists():
        state = torch.load(path, weights_only=True)
        start, average, smooth = state["step"], state["average"], state["loss"]
        container.load_state_dict(state["modules"])
        optimizer.load_state_dict(state["optimizer"])

    def save(step):
        state = {"step": step, "modules": container.state_dict(), "optimizer": optimizer.state_dict()}
        save_atomically(torch.save, {**state, "average": average, "loss": smooth}, path)

    container.train()
    progress = tqdm(range(start, steps), initial=start, total=steps, desc=name, mininterval=5)
    for step in progress:
        after_half = max(0.0, step / steps - 0.5) * 2
        optimizer.param_groups[0]["lr"] = learning_rate * (0.03 + 0.97 * (1 + math.cos(math.pi * after_half)) / 2)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(step, torch.Generator().manual_seed(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if ema:
            with torch.no_grad():
                torch._foreach_lerp_(average, parameters, 1 - min(ema, (step + 1) / (step + 10)))
        smooth = loss.item() if smooth is None else 0.99 * smooth + 0.01 * loss.item()
        progress.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        if (step + 1) % 250 == 0 or step + 1 == steps:
            save(step + 1)
    if ema:
        with torch.no_grad():
            for parameter, mean in zip(parameters, average, strict=True):
                parameter.copy_(mean)
    container.eval()


def bf16():
    """Where the processor is fast at it; one that is not takes many times as long."""
    from sae_eraser.sae_ops.bf16 import is_fast_at_bf16

    return torch.autocast("cpu", torch.bfloat16, enabled=is_fast_at_bf16(torch.device("cpu")))


def initialise(module: torch.nn.Module) -> torch.nn.Module:
    """torch's own initialisation for the layers of ComfyUI, which leaves its weights empty."""
    for layer in module.modules():
        for kind in (torch.nn.Linear, torch.nn.Conv2d, torch.nn.GroupNorm, torch.nn.LayerNorm, torch.nn.Embedding):
            if isinstance(layer, kind):
                kind.reset_parameters(layer)
    return module.requires_grad_(True)
