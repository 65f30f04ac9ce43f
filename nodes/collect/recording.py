"""Records what passes through hooked blocks while ComfyUI samples, as far as it is to be kept."""

from dataclasses import dataclass

import torch

from ..even_spread import spread

COLLECTED_BRANCHES = ("cond", "both")
"""Halves of classifier-free guidance to keep: that of the prompt, or that of the empty prompt as well."""


@dataclass(frozen=True)
class Keep:
    """Which of the model's calls, positions and halves are kept."""

    keep_steps: int = 0
    """So many of the calls, spread evenly, the first and the last included; 0: all."""
    keep_positions: int = 0
    """So many positions of every map, drawn at random; 0: all."""
    sigma_min: float = 0.0
    sigma_max: float = 0.0
    """Only calls at noise levels in between are kept; a sigma_max of 0 is no limit."""
    branch: str = "cond"
    """"cond", or "both"."""


class Recorder:
    """The functions of BlockHooks that copy what passes and change nothing."""

    def __init__(self, keep: Keep):
        self.keep = keep
        self.map_positions: dict[str, int] = {}
        """How many positions whole maps have where keep_positions of them are kept; the most if calls differ."""
        self.start(range(0))

    def start(self, images: range) -> None:
        """Forgets what it has; the next that is sampled are these images of the cache, as one batch."""
        self._images = images
        self._sigmas: dict[tuple[str, bool], list[torch.Tensor]] = {}
        self._vectors: dict[tuple[str, bool], list[torch.Tensor | None]] = {}

    def function(self, name: str):
        """The function for the BlockHook at the hookpoint of this name."""

        def record(x: torch.Tensor, sigma: torch.Tensor, is_cond: torch.Tensor) -> torch.Tensor:
            for half in (True, False) if self.keep.branch == "both" else (True,):
                rows = is_cond == half
                if rows.any():
                    self._record((name, half), x[rows].flatten(2).movedim(1, 2), sigma[rows])
            return x

        return record

    def take(self) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Activations of the batch by hookpoint, [images, maps, positions, width], and sigmas fp32 [images, maps].

        Raises ValueError if nothing is to be kept, if both halves are and there is but one, or if their sizes differ.
        """
        activations, sigmas = {}, torch.empty(0)
        for name in dict.fromkeys(name for name, _ in self._vectors):
            calls = self._kept(name, True)
            if self.keep.branch == "both":
                uncond = self._kept(name, False)
                if len(uncond) != len(calls):
                    raise ValueError(
                        "The model is not called for the unconditional half, so there are no two halves to keep. Set "
                        "cfg above 1, or branch to cond."
                    )
                calls = [call for both in zip(calls, uncond, strict=True) for call in both]
            positions = {vectors.shape[1] for vectors, _ in calls}
            if len(positions) > 1:
                raise ValueError(
                    f"{name} has from {min(positions)} to {max(positions)} positions in the calls of one sampling. "
                    "Take the node out of the workflow that scales them for some steps (PatchModelAddDownscale, for "
                    f"instance), or set keep_positions to {min(positions)} or less."
                )
            activations[name] = torch.stack([vectors for vectors, _ in calls], dim=1)
            sigmas = torch.stack([sigma for _, sigma in calls], dim=1)
        self.start(range(0))
        return activations, sigmas

    def _record(self, key: tuple[str, bool], vectors: torch.Tensor, sigma: torch.Tensor) -> None:
        """One call at one hookpoint for one half: vectors [images, positions, width], sigma [images]."""
        sigmas = self._sigmas.setdefault(key, [])
        call = len(sigmas)
        sigmas.append(sigma)
        kept: torch.Tensor | None = None
        if self.keep.sigma_min <= sigma[0] and (self.keep.sigma_max == 0 or sigma[0] <= self.keep.sigma_max):
            positions = vectors.shape[1]
            if 0 < self.keep.keep_positions <= positions:
                self.map_positions[key[0]] = max(positions, self.map_positions.get(key[0], 0))
                drawn = [draw_positions(image, call, positions, self.keep.keep_positions) for image in self._images]
                index = torch.stack(drawn).to(vectors.device)
                vectors = torch.take_along_dim(vectors, index[..., None], dim=1)
            kept = vectors.cpu()
        self._vectors.setdefault(key, []).append(kept)

    def _kept(self, name: str, is_cond: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
        key = (name, is_cond)
        sigmas = self._sigmas.get(key, [])
        calls = [
            (vectors, sigma)
            for vectors, sigma in zip(self._vectors.get(key, []), sigmas, strict=True)
            if vectors is not None
        ]
        if sigmas and not calls:
            levels = [sigma[0].item() for sigma in sigmas]
            raise ValueError(
                f"No call of the model has a noise level between sigma_min and sigma_max; they go from "
                f"{max(levels):.4g} down to {min(levels):.4g}."
            )
        return [calls[call] for call in spread(len(calls), self.keep.keep_steps)]


def draw_positions(image: int, call: int, positions: int, keep: int) -> torch.Tensor:
    """`keep` of the positions in ascending order, int64 [keep]: always the same for an image and a call."""
    generator = torch.Generator().manual_seed(image * 4096 + call)
    return torch.randperm(positions, generator=generator)[:keep].sort().values
