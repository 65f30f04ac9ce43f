"""Exchanges what passes through blocks between the two pictures of a pair."""

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher

from ...sae_ops.hookpoints import Hookpoint
from ..hooks.block_hooks import get_hooks, with_hooks
from ..hooks.forward_hooks import BlockHook
from ..sample.prompt_batch import EncodedOnce, sample_prompts, taken_together
from ..sample.sampling_progress import SamplingProgress
from .denoising_errors import denoising_errors


class Exchange:
    """The function of a BlockHook, for a batch of the first pictures, their partners, and both again.

    What is there the second time gets the activations that its partner has the first time. The first time stays as it
    is, so that several blocks can be exchanged: each gives what it did while nothing was exchanged. Only at noise
    levels between sigma_start and sigma_end, both included, and only in the prompts' half of classifier-free guidance:
    the other half has the same prompt in all pictures.
    """

    def __init__(self, sigma_start: float = float("inf"), sigma_end: float = 0.0):
        self.sigma_start, self.sigma_end = sigma_start, sigma_end
        self.sigmas: list[float] = []
        """The noise levels at which it has exchanged."""

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, is_cond: torch.Tensor) -> torch.Tensor:
        level = sigma[0].item()
        if not (self.sigma_end <= level <= self.sigma_start and is_cond.any()):
            return x
        self.sigmas.append(level)
        originals = x[is_cond].chunk(2)[0]
        result = x.clone()
        result[is_cond] = torch.cat([originals, partners(originals)])
        return result


def partners(pictures: torch.Tensor) -> torch.Tensor:
    """The other picture of each pair, [2 * pairs, ...]: the first half holds one of each, the second its partners."""
    first, second = pictures.chunk(2)
    return torch.cat([second, first])


class PairSampler:
    """Samples the same pairs again and again, and says how far it is."""

    def __init__(
        self,
        clip,
        pairs: list[tuple[str, str]],
        seeds: list[int],
        batch_size: int,
        sampling: dict,
        exchanges: int,
        progress: SamplingProgress,
    ):
        """Both pictures of pair i have the noise of seeds[i]. batch_size: pairs at once; exchanges: how many at most.

        sampling: as prompt_batch.sample_prompts takes it.
        """
        places = [slice(start, start + batch_size) for start in range(0, len(pairs), batch_size)]
        self._batches = [(pairs[place], seeds[place]) for place in places]
        self._clip, self._sampling, self._progress = EncodedOnce(clip), sampling, progress
        self._per_exchange = 4 * len(pairs)
        self._total = 2 * len(pairs) + exchanges * self._per_exchange
        self._done = 0

    def originals(self, model: ModelPatcher) -> torch.Tensor:
        """Latents [2 * pairs, channels, ...]: the first of every pair, then the second of every pair."""
        return self._sample(model, 1)

    def exchanged(
        self, model: ModelPatcher, hookpoints: list[Hookpoint], hooked: str, exchange: Exchange
    ) -> torch.Tensor:
        """Latents as `originals` gives, with these hookpoints exchanged besides what earlier nodes do to the model.

        hooked: "output", or "residual" (output minus input).
        """
        hooks = (BlockHook(point, hooked, exchange) for point in hookpoints)
        return self._sample(with_hooks(model, (*get_hooks(model), *hooks)), 2)

    def errors(self, model: ModelPatcher, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How well the model denoises latents in the order of `originals`, [2 * pairs] each: under their own prompt,
        and under their partner's. What nodes of this pack do to the model is left out."""
        judge = with_hooks(model, ())
        firsts = [first for pairs, _ in self._batches for first, _ in pairs]
        seconds = [second for pairs, _ in self._batches for _, second in pairs]
        return self._errors(judge, pictures, firsts + seconds), self._errors(judge, pictures, seconds + firsts)

    def leave_out(self) -> None:
        """One exchange fewer: what it would give is known."""
        self._total -= self._per_exchange

    def _sample(self, model: ModelPatcher, times: int) -> torch.Tensor:
        """Every pair so many times in its batch; latents of the last time."""
        halves: tuple[list[torch.Tensor], list[torch.Tensor]] = [], []
        for pairs, seeds in self._batches:
            comfy.model_management.throw_exception_if_processing_interrupted()
            prompts = [first for first, _ in pairs] + [second for _, second in pairs]
            latents = sample_prompts(model, self._clip, prompts * times, seeds * 2 * times, **self._sampling)
            latents = latents.float()  # ComfyUI may keep them in fp16
            for half, part in zip(halves, latents[-len(prompts) :].chunk(2), strict=True):
                half.append(part)
            self._done += len(latents)
            self._progress.show(self._done, self._total, self._done)
        return torch.cat([*halves[0], *halves[1]])

    def _errors(self, model: ModelPatcher, pictures: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        at_once = 4 * len(self._batches[0][0])
        errors = torch.empty(len(prompts))
        for places in taken_together(model, self._clip, prompts):
            for start in range(0, len(places), at_once):
                part = places[start : start + at_once]
                own = [prompts[place] for place in part]
                errors[part] = denoising_errors(model, self._clip, pictures[part], own)
        return errors
