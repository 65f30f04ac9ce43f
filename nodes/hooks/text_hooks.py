"""Hooks layers of text encoders while they encode, on a clone of ComfyUI's CLIP object."""

from collections.abc import Callable
from typing import Any

import torch
from comfy.sd import CLIP

from ...sae_ops.hookpoints import Hookpoint
from ...sae_ops.text_hookpoints import check_is_read, find_text_hookpoint
from .forward_hooks import Hooks, hooked_blocks
from .streams import BlockStream


def resolve_text_hookpoint(clip: CLIP, name: str) -> Hookpoint:
    """The hookpoint of this name in the user's text encoders. Raises HookpointError."""
    return find_text_hookpoint(_plain(clip), name)


def get_text_hooks(clip: CLIP) -> Hooks:
    """The hooks that an earlier node of this pack put on the CLIP."""
    encoder = clip.cond_stage_model
    return encoder.hooks if isinstance(encoder, HookedTextEncoder) else ()


def with_text_hooks(clip: CLIP, hooks: Hooks) -> CLIP:
    """A clone of the CLIP with exactly these hooks; the CLIP given stays as it is.

    They see maps [texts, d, tokens, 1]. A text has no noise level and does not know which half of the guidance it will
    be: sigma is 1 and is_cond is True. Encoding raises HookpointError where a hook could have no effect.
    """
    clone = clip.clone()
    clone.cond_stage_model = HookedTextEncoder(_plain(clip), hooks) if hooks else _plain(clip)
    return clone


class HookedTextEncoder:
    """Stands in for the text encoder, which it shares with other clones, and hooks it for the time of a call.

    Of an encoder made of several each stands for itself as well: some nodes call clip_l or t5xxl on their own.
    """

    def __init__(self, plain: Any, hooks: Hooks, whole: Any = None, path: str = ""):
        """plain: the encoder, which lies in `whole` at the path, or is that."""
        self.plain, self.hooks, self.whole, self.path = plain, hooks, whole or plain, path

    def __getattr__(self, name: str):
        if name.startswith("__") or "plain" not in self.__dict__:  # it is copied as what it is itself
            raise AttributeError(name)
        found, path = getattr(self.plain, name), f"{self.path}{name}."
        within = tuple(hook for hook in self.hooks if hook.hookpoint.path.startswith(path))
        if within and hasattr(found, "encode_token_weights"):
            return HookedTextEncoder(found, within, self.whole, path)
        return found

    def encode_token_weights(self, tokens):
        return self._hooked(self.plain.encode_token_weights, tokens)

    def encode(self, tokens):
        return self._hooked(self.plain.encode, tokens)

    def __call__(self, *args, **kwargs):
        return self._hooked(self.plain, *args, **kwargs)

    def _hooked(self, encode: Callable, *args, **kwargs):
        for hook in self.hooks:
            check_is_read(self.whole, hook.hookpoint)
        with hooked_blocks(self.whole, self.hooks, BlockStream, _levels_and_halves):
            return encode(*args, **kwargs)


def _plain(clip: CLIP) -> Any:
    encoder = clip.cond_stage_model
    return encoder.plain if isinstance(encoder, HookedTextEncoder) else encoder


def _levels_and_halves(texts: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(texts), torch.ones(texts, dtype=torch.bool)
