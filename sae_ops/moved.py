"""Whether a concept moved along when pictures of a pair exchanged something, and how much else broke.

The diffusion model itself is the judge, as in "Your Diffusion Model is Secretly a Zero-Shot Classifier" (Li et al.,
arXiv 2303.16203): a picture shows what that prompt says under which the model denoises it better.
"""

from dataclasses import dataclass

import torch

BROKEN = 1.5
"""A picture is broken if the model's error is larger than so many times that of the original it is taken for."""


@dataclass(frozen=True)
class Moved:
    """How exchanged pictures fit their prompts; a number for each."""

    lead: list[float]
    """ln(error under the own prompt / error under the partner's): above 0 the partner's fits better."""
    worse: list[float]
    """Error under the prompt that fits better, in units of that prompt's original."""

    @property
    def share(self) -> float:
        """Share of pictures that the partner's prompt fits better."""
        return sum(lead > 0 for lead in self.lead) / len(self.lead)

    @property
    def broken(self) -> float:
        """Share of pictures that are none which these prompts give."""
        return sum(worse > BROKEN for worse in self.worse) / len(self.worse)

    @property
    def whole(self) -> float:
        """Share of pictures that the partner's prompt fits better and that are not broken."""
        pictures = zip(self.lead, self.worse, strict=True)
        return sum(lead > 0 and worse <= BROKEN for lead, worse in pictures) / len(self.lead)


def judge_moved(own: torch.Tensor, partner: torch.Tensor, originals: torch.Tensor, partners: torch.Tensor) -> Moved:
    """All mean squared errors of denoising, [pictures]: of the exchanged pictures under their own and under their
    partner's prompt, of their originals under the own prompt, and of the partner's original under the partner's.

    A picture that has become NaN has not moved and is broken.
    """
    lead = (own / partner).log().nan_to_num(0.0)
    worse = torch.where(lead > 0, partner / partners, own / originals).nan_to_num(torch.finfo(own.dtype).max)
    return Moved([round(value, 4) for value in lead.tolist()], [round(value, 4) for value in worse.tolist()])
