"""Watches how strongly concepts fire while a model samples, and keeps that for nodes that run afterwards."""

from collections import defaultdict, deque
from dataclasses import dataclass, field

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...sae_ops.chosen_latents import ChosenLatents
from ..files.sae_files import LoadedSAE
from ..files.whole_encoders import whole_encoder
from ..hooks.block_hooks import find_transformer_options, get_hooks, with_hooks
from ..hooks.forward_hooks import BlockHook
from ..hooks.halves import HALVES
from ..hooks.sae_hookpoints import resolve_sae

KEY = "sae_eraser_watch"
KEPT_BYTES = 512 * 2**20
"""The oldest runs of a watch go when its runs take more."""


class UnwatchedLatent(ValueError):
    """No run that was watched has made this latent."""


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
class Watch:
    """The runs of a watched model; what the SAE_WATCH sockets carry. Holds no model."""

    sae: LoadedSAE
    runs: deque[WatchedRun] = field(default_factory=deque)
    _readers: dict[torch.device, ChosenLatents] = field(default_factory=dict)
    _shape: torch.Size = torch.Size()
    """Of the latents that are sampled."""
    _calls: dict[float, list[torch.Tensor]] | None = None
    """What the run in progress has met at every noise level at which the model was called; None in between."""
    _called: list[int] = field(default_factory=list)
    """For how many pictures each call of the run in progress was; lists, since several GPUs may add to them at once."""
    _ran: list[int] = field(default_factory=list)
    """For how many the block ran each time."""

    def sample(self, executor, noise, *args, **kwargs):
        """Around one run of a sampler, whatever it is; a run that does not come to its end leaves nothing."""
        if self._calls is not None:  # within the run that is watched: what it meets belongs to that
            return executor(noise, *args, **kwargs)
        self._shape, self._calls, self._called, self._ran = noise.shape, defaultdict(list), [], []
        try:
            latents = executor(noise, *args, **kwargs)
            if not all(self._calls.values()):
                unseen, which = sum(not z for z in self._calls.values()), self.sae.header.branch
                raise ValueError(
                    f"The SAE '{self.sae.name}' watches the half of guidance that reads "
                    f"{'the' if which == 'cond' else 'no'} prompt (branch {which}), but the model was not called for "
                    f"that at {unseen} of {len(self._calls)} noise levels. Set cfg above 1 at every step, or watch "
                    "with an SAE of the other branch."
                )
            if len({z.shape for calls in self._calls.values() for z in calls}) > 1:
                raise ValueError(
                    f"The block of the SAE '{self.sae.name}' gives maps of several sizes in one run, so SAE Eraser "
                    "cannot watch concepts. Take the node out of the workflow that scales them for some steps "
                    "(PatchModelAddDownscale, for instance), or Watch Concepts."
                )
            if sum(self._ran) > sum(self._called):
                raise ValueError(
                    f"Another node has the block of the SAE '{self.sae.name}' run for other pictures besides those "
                    "that are sampled (reference ControlNet, for instance), so SAE Eraser cannot tell what was met in "
                    "which. Take that node out of the workflow, or Watch Concepts."
                )
            if self._calls:
                self._keep(latents)
        finally:
            self._calls = None
        return latents

    def call(self, executor, x, *args, **kwargs):
        """Around one call of the model, which must be for whole pictures."""
        halves = find_transformer_options(args, kwargs).get(HALVES)
        is_part = x.shape[2:] != self._shape[2:] or len(x) % self._shape[0]
        if self._calls is not None and (is_part or halves and halves.images != self._shape[0]):
            raise RuntimeError(
                "The model is called with parts of the picture (tiles, areas or windows), so SAE Eraser cannot watch "
                "concepts. Take that node out of the workflow, or Watch Concepts."
            )
        self._called.append(len(x))
        return executor(x, *args, **kwargs)

    def read(self, x: torch.Tensor, sigma: torch.Tensor, is_cond: torch.Tensor) -> torch.Tensor:
        """The function of the BlockHook; returns x itself."""
        read = is_cond == (self.sae.header.branch == "cond")
        if self._calls is not None:
            self._ran.append(len(x))
            met = self._calls[sigma[0].item()]
            if read.any():
                maps = x[read]
                z = self._reader(x.device)(maps.flatten(2).float()).unflatten(2, maps.shape[2:]).cpu()
                met += z.split(self._shape[0])  # several prompts, or several calls at one noise level
        return x

    def run_of(self, latents: torch.Tensor) -> WatchedRun:
        """The last run that made these latents, or what runs at the same noise levels met that made some each.

        Raises UnwatchedLatent.
        """
        latents = latents.cpu()
        for run in reversed(self.runs):
            if _is_same(run.latents, latents):
                return run
        places = [self._place_of(latent) for latent in latents]
        found = [place for place in places if place]
        kinds = {(tuple(run.sigmas.tolist()), run.z.shape[2:]) for run, _ in found}
        if len(found) == len(places) and len(kinds) == 1:
            z = torch.stack([run.z[:, row] for run, row in found], dim=1)
            return WatchedRun(latents, found[0][0].sigmas, z)
        raise UnwatchedLatent(
            "This latent was not made with the watched model, or too many runs ago. Connect the MODEL of Watch "
            "Concepts to the sampler and the sampler's LATENT, unchanged, to this node; then run with another seed."
        )

    def _place_of(self, latent: torch.Tensor) -> tuple[WatchedRun, int] | None:
        """The last run that made this one, and its row there."""
        for run in reversed(self.runs):
            for row, own in enumerate(run.latents):
                if _is_same(own, latent):
                    return run, row
        return None

    def _keep(self, latents: torch.Tensor) -> None:
        assert self._calls
        sigmas = sorted(self._calls, reverse=True)
        z = torch.stack([torch.stack(self._calls[sigma]).amax(dim=0) for sigma in sigmas])
        self.runs.append(WatchedRun(latents.detach().to("cpu", copy=True), torch.tensor(sigmas), z))
        while len(self.runs) > 1 and sum(run.bytes for run in self.runs) > KEPT_BYTES:
            self.runs.popleft()

    def _reader(self, device: torch.device) -> ChosenLatents:
        if device not in self._readers:
            encoder = whole_encoder(self.sae)
            latents = [latent for concept in self.sae.header.concepts for latent in concept.latents]
            reader = ChosenLatents(self.sae.autoencoder, latents, encoder.model if encoder else None)
            self._readers[device] = reader.to(device)
        return self._readers[device]


def _is_same(made: torch.Tensor, latents: torch.Tensor) -> bool:
    """Whether these are what was made, whose precision they may have lost. NaN is the same as NaN."""
    same = made.shape == latents.shape
    return same and torch.allclose(made.to(latents.dtype), latents, rtol=0, atol=0, equal_nan=True)


def watch(model: ModelPatcher, sae: LoadedSAE) -> tuple[ModelPatcher, Watch]:
    """A clone of the model that draws the same, and the Watch of what passes through the SAE's block in it.

    It sees what the block gives, before anything is erased there. Raises as resolve_sae does, and ValueError if the
    SAE has no concepts.
    """
    if not sae.header.concepts:
        raise ValueError(f"The SAE '{sae.name}' has no concepts to watch. Choose an SAE that has some.")
    own = Watch(sae)
    watched = with_hooks(model, (BlockHook(resolve_sae(model, sae), sae.header.hooked, own.read), *get_hooks(model)))
    watched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, own.sample)
    watched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, own.call)
    encoder = whole_encoder(sae)
    if encoder:
        watched.set_additional_models(KEY, [*watched.get_additional_models_with_key(KEY), encoder])
    return watched, own
