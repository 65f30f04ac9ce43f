"""Torch's forward hooks on blocks of a model for the time of one call, in whatever the model runs."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ...sae_ops.hookpoints import Hookpoint, HookpointError, parts_of
from .needs import Need
from .streams import BlockStream


@dataclass(frozen=True)
class BlockHook:
    """What to do at one block."""

    hookpoint: Hookpoint
    hooked: str
    """"output" or "residual" (output minus input)."""
    function: Callable[..., torch.Tensor]
    """(x [images, d, positions...], sigma [images], is_cond [images]) -> x of the same shape. The last two are on the
    CPU."""
    takes_place: bool = False
    """Whether the function takes the Place of x in the picture that is sampled as `place`, while a sampler runs."""
    remembers: bool = False
    """Whether it takes the CallMemory of each call as `memory`, likewise."""
    reads_halves: bool = True
    """Whether it matters to the function what is_cond says."""
    needs: tuple[Need, ...] = ()
    """Of every run of a sampler."""

    def __post_init__(self):
        if self.hooked == "residual" and not self.hookpoint.has_residual:
            raise HookpointError(
                f"{self.hookpoint.name} changes the shape of what passes through it, so there is no output minus input "
                "(residual). Hook its output, or another block."
            )


Hooks = tuple[BlockHook, ...]


def find_block(model: torch.nn.Module, hookpoint: Hookpoint) -> torch.nn.Module:
    """The hookpoint's block. Raises RuntimeError if something else is in its place."""
    try:
        block = model.get_submodule(hookpoint.path)
    except AttributeError:
        block = None
    if block is None or not hookpoint.parts <= parts_of(block):
        raise RuntimeError(
            f"Another node has put something else in the place of the block {hookpoint.name}, which SAE Eraser hooks "
            "(First Block Cache or AnimateDiff, for instance). Take that node out of the workflow and run it again."
        )
    return block


@contextmanager
def hooked_blocks(
    model: torch.nn.Module,
    hooks: Hooks,
    find_stream: Callable[[Hookpoint], BlockStream],
    levels_and_halves: Callable[[int], tuple[torch.Tensor, torch.Tensor]],
    images: int = 1,
) -> Iterator[None]:
    """Hooks blocks of the model for the time of one call.

    levels_and_halves(images) -> sigma and is_cond [images], on the CPU.

    Raises RuntimeError afterwards if a block did not run for so many images.
    """
    at_block = defaultdict(list)
    for hook in hooks:
        at_block[hook.hookpoint].append(hook)
    ran: Counter[Hookpoint] = Counter()
    handles = []
    try:
        for hookpoint, own in at_block.items():
            before, after = _forward_hooks(find_stream(hookpoint), own, levels_and_halves, ran)
            block = find_block(model, hookpoint)
            handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(block.register_forward_hook(after, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
    for hookpoint in at_block:
        if ran[hookpoint] < images:
            raise RuntimeError(
                f"The block {hookpoint.name}, which SAE Eraser hooks, did not run for every picture of this step. "
                "Another node skips or replaces it (a cache such as EasyCache or DeepCache, for instance), or gives "
                "some pictures to a copy of the model; take that node out of the workflow. LazyCache can stay."
            )


def _forward_hooks(stream: BlockStream, hooks: list[BlockHook], levels_and_halves: Callable, ran: Counter[Hookpoint]):
    """Torch's hooks before and after the block."""
    residual = any(hook.hooked == "residual" for hook in hooks)
    inputs: list[torch.Tensor] = []

    def before_block(block, args, kwargs):
        if residual:
            inputs.append(stream.input(args, kwargs).clone())  # some blocks write into it

    @torch.compiler.disable
    def after_block(block, args, kwargs, returned):
        block_options = kwargs.get("transformer_options") or {}
        tensor = stream.output(returned)
        output = stream.to_map(tensor, block_options)
        ran[stream.hookpoint] += len(output)
        added = output - stream.to_map(inputs.pop(), block_options) if residual else output
        sigma, is_cond = levels_and_halves(len(output))
        changes = []
        for hook in hooks:
            before = added if hook.hooked == "residual" else output
            after = hook.function(before, sigma, is_cond)
            if after is not before:
                changes.append((before, after))
        if not changes:
            return returned
        if len(changes) == 1 and changes[0][0] is output:
            result = changes[0][1]  # bit for bit
        else:
            result = sum((after - before for before, after in changes), output)
        return stream.with_output(returned, stream.with_map(tensor, block_options, result))

    return before_block, after_block
