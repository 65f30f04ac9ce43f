"""Records what passes through layers of a text encoder while it encodes labelled prompts."""

from collections.abc import Callable

import torch
from comfy.sd import CLIP

from ...sae_ops.hookpoints import Hookpoint
from ..hooks.forward_hooks import BlockHook
from ..hooks.text_hooks import get_text_hooks, with_text_hooks
from .recording import Recorder

Function = Callable[..., torch.Tensor]


class TextRecorder:
    """Encodes prompts one by one; a text has one map, whose positions are its tokens, at a noise level of 1."""

    def __init__(self, clip: CLIP, hookpoints: list[Hookpoint], hooked: str, recorder: Recorder):
        hooks = tuple(BlockHook(point, hooked, _of_the_first(recorder.function(point.name))) for point in hookpoints)
        self.clip, self.recorder = with_text_hooks(clip, (*get_text_hooks(clip), *hooks)), recorder

    def record(self, images: range, prompts: list[str]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Encodes the prompts of these images; returns what Recorder.take does. Raises ValueError for one too long."""
        taken = [self._record(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
        names = taken[0][0]
        activations = {name: torch.cat([activations[name] for activations, _ in taken]) for name in names}
        return activations, torch.cat([sigmas for _, sigmas in taken])

    def _record(self, image: int, prompt: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        tokens = self.clip.tokenize(prompt)
        if any(len(chunks) > 1 for chunks in tokens.values()):
            raise ValueError(
                f"The prompt '{prompt[:60]}...' is longer than what a text encoder reads at once. Shorten it."
            )
        self.recorder.start(range(image, image + 1))
        self.clip.encode_from_tokens(tokens)
        return self.recorder.take()


def _of_the_first(function: Function) -> Function:
    """The function for the first text alone: a prompt with weights is encoded together with an empty one, the last."""

    def record(x: torch.Tensor, sigma: torch.Tensor, is_cond: torch.Tensor) -> torch.Tensor:
        function(x[:1], sigma[:1], is_cond[:1])
        return x

    return record
