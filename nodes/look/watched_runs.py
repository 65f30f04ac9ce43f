"""What one run of a sampler has met at a watched block, while it goes on and when it is done."""

from collections import defaultdict
from dataclasses import dataclass, field

import torch

from ..files.sae_files import LoadedSAE


@dataclass(frozen=True, eq=False)
class WatchedRun:
    """What one run of a sampler met."""

    latents: torch.Tensor
    """What the sampler has made, [images, ...]."""
    sigmas: torch.Tensor
    """Noise levels at which the model was called, descending, [steps]."""
    z: torch.Tensor
    """Activations of the concepts' latents in the half of guidance that the SAE reads, [steps, images, terms,
    positions...]."""

    @property
    def bytes(self) -> int:
        return self.latents.nbytes + self.z.nbytes


@dataclass(eq=False)
class RunInProgress:
    """What a run has met so far, in lists, since several GPUs may add to them at once."""

    shape: torch.Size
    """Of the latents that are sampled."""
    z: dict[float, list[torch.Tensor]] = field(default_factory=lambda: defaultdict(list))
    """By noise level at which the model was called: activations [images, terms, positions...] for every prompt of the
    half of guidance that the SAE reads; an empty list if it was called for the other half alone."""
    called: list[int] = field(default_factory=list)
    """For how many pictures each call of the model was."""
    ran: list[int] = field(default_factory=list)
    """For how many the block ran each time."""

    def check(self, sae: LoadedSAE) -> None:
        """Raises ValueError if what this SAE has met cannot be told for every noise level and every picture."""
        if not all(self.z.values()):
            unseen, which = sum(not z for z in self.z.values()), sae.header.branch
            raise ValueError(
                f"The SAE '{sae.name}' watches the half of guidance that reads "
                f"{'the' if which == 'cond' else 'no'} prompt (branch {which}), but the model was not called for "
                f"that at {unseen} of {len(self.z)} noise levels. Set cfg above 1 at every step, or watch "
                "with an SAE of the other branch."
            )
        if len({z.shape for calls in self.z.values() for z in calls}) > 1:
            raise ValueError(
                f"The block of the SAE '{sae.name}' gives maps of several sizes in one run, so SAE Eraser "
                "cannot watch concepts. Take the node out of the workflow that scales them for some steps "
                "(PatchModelAddDownscale, for instance), or Watch Concepts."
            )
        if sum(self.ran) > sum(self.called):
            raise ValueError(
                f"Another node has the block of the SAE '{sae.name}' run for other pictures besides those "
                "that are sampled (reference ControlNet, for instance), so SAE Eraser cannot tell what was met in "
                "which. Take that node out of the workflow, or Watch Concepts."
            )

    def finished(self, latents: torch.Tensor) -> WatchedRun:
        """The run that has made these latents, with what was met most at every noise level; check() has passed."""
        sigmas = sorted(self.z, reverse=True)
        z = torch.stack([torch.stack(self.z[sigma]).amax(dim=0) for sigma in sigmas])
        return WatchedRun(latents.detach().to("cpu", copy=True), torch.tensor(sigmas), z)
