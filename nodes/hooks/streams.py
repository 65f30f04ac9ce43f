"""What hooks see of what passes through a block, as maps [images, d, positions...], and the way back."""

import math
from dataclasses import dataclass

import torch

from ...sae_ops.hookpoints import Hookpoint


@dataclass(frozen=True)
class BlockStream:
    """Finds the picture's vectors, or the text's in a text encoder, at one hookpoint in one call of the model.

    A transformer's tokens become a map of its patches, [images, d, height, width] or [images, d, frames, height,
    width]. Where that cannot be, in texts or among tokens of other pictures to go by, it is [images, d, tokens, 1].
    """

    hookpoint: Hookpoint
    grid: tuple[int, ...] | None = None
    """Patches of the latent in every direction; None for texts."""
    padded_to: int = 1
    """The picture's tokens are padded to a multiple of this."""

    def input(self, args: tuple, kwargs: dict) -> torch.Tensor:
        """What the block's output continues, of the output's layout."""
        argument = self.hookpoint.argument
        return args[argument] if isinstance(argument, int) else kwargs[argument]

    def output(self, output) -> torch.Tensor:
        """The tensor that has the picture, out of all that the block returns."""
        if self.hookpoint.stream in ("first", "second"):
            return output[self._place]
        return output

    def with_output(self, output, changed: torch.Tensor):
        """All that the block returns, with `changed` in place of self.output(output)."""
        if self.hookpoint.stream in ("first", "second"):
            return tuple(changed if place == self._place else other for place, other in enumerate(output))
        return changed

    def to_map(self, tensor: torch.Tensor, options: dict) -> torch.Tensor:
        """The block's tensor -> the map of the picture in it. `options` are the block's transformer_options."""
        if self.hookpoint.stream == "map":
            return tensor
        vectors = tensor[:, self._tokens(tensor.shape[1], options)].movedim(1, 2)
        if self.grid and math.prod(self.grid) == vectors.shape[2]:
            return vectors.unflatten(2, self.grid)
        return vectors.unsqueeze(3)

    def with_map(self, tensor: torch.Tensor, options: dict, changed: torch.Tensor) -> torch.Tensor:
        """The block's tensor with `changed` in place of self.to_map(tensor)."""
        if self.hookpoint.stream == "map":
            return changed
        result = tensor.clone()
        result[:, self._tokens(tensor.shape[1], options)] = changed.flatten(2).movedim(1, 2)
        return result

    @property
    def _place(self) -> int:
        return ("first", "second").index(self.hookpoint.stream)

    def _tokens(self, total: int, options: dict) -> slice:
        """Which of a sequence's tokens they are."""
        if self.hookpoint.stream == "last" and self.grid:
            own = math.prod(self.grid)
            start = total - math.ceil(own / self.padded_to) * self.padded_to
            if start < 0:
                raise RuntimeError(
                    f"{self.hookpoint.name} has {total} tokens, fewer than the {own} patches of the picture, so its "
                    "vectors cannot be told apart. Take nodes out of the workflow that merge or drop tokens."
                )
            return slice(start, start + own)
        start = 0
        if self.hookpoint.stream == "slice":
            if "img_slice" not in options:
                raise RuntimeError(
                    f"{self.hookpoint.name} is not told where the picture's tokens are (img_slice). This ComfyUI or "
                    "this model does not support it; update ComfyUI or choose one of the transformer_blocks."
                )
            start, total = options["img_slice"]
        others = sum(options.get("reference_image_num_tokens", ()))
        if self.grid and total - start - others < math.prod(self.grid):  # Flux KV Cache has left them out already
            others = 0
        return slice(start, total - others)


def picture_stream(hookpoint: Hookpoint, diffusion_model: torch.nn.Module, latent: torch.Tensor) -> BlockStream:
    """The stream at a hookpoint in one call with these latents, [images, channels, (frames,) height, width]."""
    sizes = latent.shape[2:]
    grid = tuple(math.ceil(size / side) for size, side in zip(sizes, patch_sides(diffusion_model, sizes), strict=True))
    return BlockStream(hookpoint, grid, getattr(diffusion_model, "pad_tokens_multiple", None) or 1)


def patch_sides(diffusion_model: torch.nn.Module, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Sides of a transformer's patches in latents, in every direction of latents of these sizes; 1 for UNets."""
    patch = getattr(diffusion_model, "patch_size", 1)
    patch = (patch, patch) if isinstance(patch, int) else tuple(patch)
    return ((1,) * len(sizes) + patch)[-len(sizes) :]
