"""Watches how strongly concepts fire while a model samples, and keeps that for nodes that run afterwards."""

from collections import deque
from dataclasses import dataclass, field, replace

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...sae_ops.chosen_latents import ChosenLatents
from ...sae_ops.concepts import detecting_alone
from ..files.sae_files import LoadedSAE
from ..files.whole_encoders import whole_encoder
from ..hooks.block_hooks import find_transformer_options, get_hooks, with_hooks
from ..hooks.forward_hooks import BlockHook
from ..hooks.halves import HALVES
from ..hooks.sae_hookpoints import resolve_sae
from .watched_runs import RunInProgress, WatchedRun

KEY = "sae_eraser_watch"
KEPT_BYTES = 512 * 2**20
"""The oldest runs of a watch go when its runs take more."""


class UnwatchedLatent(ValueError):
    """No run that was watched has made this latent."""

    __module__ = "sae_eraser"  # as the page says it before the message


@dataclass(eq=False)
class Watch:
    """The runs of a watched model; what the SAE_WATCH sockets carry. Holds no diffusion model."""

    sae: LoadedSAE
    """With the latents alone that detect its concepts."""
    encoder: ModelPatcher | None
    """The SAE's whole encoder, if its activation needs it."""
    runs: deque[WatchedRun] = field(default_factory=deque)
    _readers: dict[torch.device, ChosenLatents] = field(default_factory=dict)
    _running: RunInProgress | None = None

    def sample(self, executor, noise, *args, **kwargs):
        """Around one run of a sampler, whatever it is; a run that does not come to its end leaves nothing."""
        if self._running:  # within the run that is watched: what it meets belongs to that
            return executor(noise, *args, **kwargs)
        self._running = running = RunInProgress(noise.shape)
        try:
            latents = executor(noise, *args, **kwargs)
        finally:
            self._running = None
        running.check(self.sae)
        if running.z:
            self._keep(running.finished(latents))
        return latents

    def call(self, executor, x, *args, **kwargs):
        """Around one call of the model, which must be for whole pictures."""
        running, halves = self._running, find_transformer_options(args, kwargs).get(HALVES)
        if running:
            images = running.shape[0]
            is_part = x.shape[2:] != running.shape[2:] or len(x) % images
            if is_part or halves and halves.images != images:
                raise RuntimeError(
                    "The model is called with parts of the picture (tiles, areas or windows), so SAE Eraser cannot "
                    "watch concepts. Take that node out of the workflow, or Watch Concepts."
                )
            running.called.append(len(x))
        return executor(x, *args, **kwargs)

    def read(self, x: torch.Tensor, sigma: torch.Tensor, is_cond: torch.Tensor) -> torch.Tensor:
        """The function of the BlockHook; returns x itself."""
        running = self._running
        if running:
            running.ran.append(len(x))
            met = running.z[sigma[0].item()]
            read = is_cond == (self.sae.header.branch == "cond")
            if read.any():
                maps = x[read]
                z = self._reader(x.device)(maps.flatten(2).float()).unflatten(2, maps.shape[2:]).cpu()
                met += z.split(running.shape[0])  # several prompts, or several calls at one noise level
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
        raise UnwatchedLatent(self._why_unwatched(latents, len(kinds) > 1))

    def _why_unwatched(self, latents: torch.Tensor, differ: bool) -> str:
        """What to do about these latents; differ: they are of runs that met other noise levels, or other maps."""
        if differ:
            return (
                "These pictures were made in runs with other noise levels. Connect the MODEL of Watch Concepts to the "
                "samplers of all with the same steps and scheduler, or look at those of each run by themselves."
            )
        if not self.runs:
            return (
                "The watched model has made no picture yet. Connect the MODEL of Watch Concepts to the sampler, and "
                "have the sampler make at least one step. If all is like that, run with another seed."
            )
        if any(run.latents.shape[1:] == latents.shape[1:] for run in self.runs):
            return (
                "This latent is not what a sampler with the watched model gave, or too many runs ago. Connect the "
                "MODEL of Watch Concepts to the sampler and the sampler's LATENT, unchanged, to this node; of "
                "SamplerCustomAdvanced output, not denoised_output. If all is like that, run with another seed."
            )
        return (
            "This latent has another size than what the watched model has made. Connect the MODEL of Watch Concepts "
            "to the sampler and the sampler's LATENT, unchanged, to this node."
        )

    def _place_of(self, latent: torch.Tensor) -> tuple[WatchedRun, int] | None:
        """The last run that made this one, and its row there."""
        for run in reversed(self.runs):
            for row, own in enumerate(run.latents):
                if _is_same(own, latent):
                    return run, row
        return None

    def _keep(self, run: WatchedRun) -> None:
        self.runs.append(run)
        while len(self.runs) > 1 and sum(run.bytes for run in self.runs) > KEPT_BYTES:
            self.runs.popleft()

    def _reader(self, device: torch.device) -> ChosenLatents:
        if device not in self._readers:
            latents = [latent for concept in self.sae.header.concepts for latent in concept.latents]
            reader = ChosenLatents(self.sae.autoencoder, latents, self.encoder.model if self.encoder else None)
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
    concepts, statistics = detecting_alone(sae.header.concepts, sae.statistics)
    encoder = whole_encoder(sae)
    own = Watch(replace(sae, header=replace(sae.header, concepts=concepts), statistics=statistics), encoder)
    watched = with_hooks(model, (BlockHook(resolve_sae(model, sae), sae.header.hooked, own.read), *get_hooks(model)))
    watched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, own.sample)
    watched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, own.call)
    if encoder:
        watched.set_additional_models(KEY, [*watched.get_additional_models_with_key(KEY), encoder])
    return watched, own
