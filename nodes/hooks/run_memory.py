"""What is kept of the pictures of one run of a sampler, from one call of the model to the next."""

from collections.abc import Hashable
from dataclasses import dataclass, field

import torch

from .halves import with_note

MEMORY = "sae_eraser_memory"
"""Where a run's RunMemory is in transformer_options."""


@dataclass(eq=False)
class RunMemory:
    """What one run has found out about its pictures; no dict, since ComfyUI copies those in transformer_options."""

    found: dict[Hashable, torch.Tensor] = field(default_factory=dict)
    """By what it is about and which pictures: bool [pictures, ...]."""


@dataclass(frozen=True)
class CallMemory:
    """A run's memory in one call of the model, whose pictures come in equal chunks."""

    run: RunMemory | None
    """None if the call is in no run that is known."""
    chunks: tuple[Hashable, ...]
    """Which pictures each is made of: the same ones in the same order wherever this is the same."""

    def recall(self, about: Hashable, pictures: int, facts: int, device: torch.device) -> torch.Tensor:
        """What earlier calls have found about so many pictures, bool [pictures, facts], as a tensor of its own.

        False where there were none, and True where it cannot be told which pictures these are.
        """
        each, rest = divmod(pictures, len(self.chunks))
        if self.run is None or rest:
            return torch.ones(pictures, facts, dtype=torch.bool, device=device)
        known = [self.run.found.get((about, chunk)) for chunk in self.chunks]
        parts = [
            torch.full((each, facts), own is not None, dtype=torch.bool, device=device)
            if own is None or len(own) != each
            else own.to(device)
            for own in known
        ]
        return torch.cat(parts)

    def keep(self, about: Hashable, found: torch.Tensor) -> None:
        """Remembers this for later calls, as recall gave it and this call has added to it."""
        if self.run is not None and len(found) % len(self.chunks) == 0:
            for chunk, own in zip(self.chunks, found.chunk(len(self.chunks)), strict=True):
                self.run.found[about, chunk] = own


def note_run(executor, *args, **kwargs):
    """The wrapper around one run of a sampler; call_memory reads what it leaves in transformer_options."""
    guider = executor.class_obj
    guider.model_options = with_note(guider.model_options, MEMORY, RunMemory())
    return executor(*args, **kwargs)


def call_memory(options: dict) -> CallMemory:
    """That of one call of the model; options: its transformer_options."""
    prompts, window = options.get("uuids"), options.get("context_window")
    if not prompts:
        return CallMemory(None, (None,))
    cut = None if window is None else (window.dim, *window.index_list)
    return CallMemory(options.get(MEMORY), tuple((prompt, cut) for prompt in prompts))
