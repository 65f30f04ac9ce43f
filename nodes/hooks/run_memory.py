"""What is kept of the pictures of one run of a sampler, from one call of the model to the next."""

from collections.abc import Hashable
from dataclasses import dataclass, field

import torch

from .halves import HALVES, with_note
from .places import pictures_of_window

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
    window: tuple[int, tuple[int, ...]] | None = None
    """Of how many pictures each has these; None if all."""

    def recall(self, about: Hashable, pictures: int, facts: int, device: torch.device) -> torch.Tensor:
        """What earlier calls have found about so many pictures, bool [pictures, facts], as a tensor of its own.

        False where there were none, and True where it cannot be told which pictures these are.
        """
        if self.run is None or not self._can_tell(pictures):
            return torch.ones(pictures, facts, dtype=torch.bool, device=device)
        total, own = self._pictures(pictures)
        return torch.cat([self._known((about, chunk), total, facts, device)[own,] for chunk in self.chunks])

    def keep(self, about: Hashable, found: torch.Tensor) -> None:
        """Remembers this for later calls, as recall gave it and this call has added to it."""
        if self.run is None or not self._can_tell(len(found)):
            return
        total, pictures = self._pictures(len(found))
        for chunk, own in zip(self.chunks, found.chunk(len(self.chunks)), strict=True):
            known = self._known((about, chunk), total, found.shape[1], found.device)
            known[pictures,] |= own  # a chunk may come twice in one call
            self.run.found[about, chunk] = known

    def _can_tell(self, pictures: int) -> bool:
        each, rest = divmod(pictures, len(self.chunks))
        return not rest and (self.window is None or each == len(self.window[1]))

    def _pictures(self, pictures: int) -> tuple[int, tuple[int, ...] | slice]:
        """How many there are of each chunk, and which of them are in a call with so many."""
        return self.window or (pictures // len(self.chunks), slice(None))

    def _known(self, key: Hashable, pictures: int, facts: int, device: torch.device) -> torch.Tensor:
        """What was found about all pictures of a chunk, of which there are so many."""
        assert self.run
        found = self.run.found.get(key)
        if found is None or len(found) != pictures:
            return torch.full((pictures, facts), found is not None, dtype=torch.bool, device=device)
        return found.to(device)


def note_run(executor, *args, **kwargs):
    """The wrapper around one run of a sampler; call_memory reads what it leaves in transformer_options."""
    guider = executor.class_obj
    guider.model_options = with_note(guider.model_options, MEMORY, RunMemory())
    return executor(*args, **kwargs)


def call_memory(options: dict) -> CallMemory:
    """That of one call of the model; options: its transformer_options."""
    prompts, chunks, halves = options.get("uuids") or (), options["cond_or_uncond"], options.get(HALVES)
    if len(prompts) != len(chunks):
        return CallMemory(None, (None,))
    # Of a prompt for an area the other halves of guidance have a copy, which ComfyUI does not give another uuid.
    names = (halves.names[chunk] if halves else chunk for chunk in chunks)
    each = tuple(zip(prompts, names, strict=True))
    return CallMemory(options.get(MEMORY), each, pictures_of_window(options.get("context_window")))
