"""Some of the terms of an edit, ready to be used at every step in which no others are needed."""

from dataclasses import dataclass

import torch

from .chosen_latents import ChosenLatents
from .terms import TermLevels, Terms


def shown_in_maps(
    z: torch.Tensor, passes: torch.Tensor, levels: TermLevels, mean_positions: int, earlier: torch.Tensor | None
) -> torch.Tensor:
    """Which maps show the concept of a term, if the term detects it, bool [images, terms, 1]: where it passes its gate,
    and reaches its mean if there is one and the picture has not done so in an earlier call.

    z and passes [images, terms, positions], earlier [images, terms, 1] or None.
    """
    shown = passes.any(dim=2, keepdim=True)
    if mean_positions:
        reached = z.sum(dim=2, keepdim=True) / min(z.shape[2], mean_positions) >= levels.detection
        shown &= reached if earlier is None else reached | earlier
    return shown


@dataclass(frozen=True)
class Selection:
    """Some of the terms of an edit. Their tensors lie where the maps do."""

    latents: ChosenLatents
    """Those of the terms."""
    decoder: torch.Tensor
    """[latents, d]."""
    latent: torch.Tensor | None
    """Which of the latents each term has; None if the first has the first, and so on."""
    statistics_column: torch.Tensor
    """As in Terms."""
    detector: torch.Tensor | None
    """As in Terms; None if every term is its own."""
    mask: torch.Tensor
    steers: bool
    """Whether any of them does."""
    turns: torch.Tensor | None
    """None if none does."""
    all_turn: bool
    replaces: torch.Tensor | None
    """None if none does."""
    finds: torch.Tensor
    """Which of them tell where to replace."""
    mean_positions: int
    """As ConceptStatistics.positions; 0 if no mean detects."""

    @staticmethod
    def of(terms: Terms, latents: ChosenLatents, decoder: torch.Tensor, mean_positions: int) -> "Selection":
        device = decoder.device
        used, latent = terms.latent.unique(return_inverse=True)
        one_by_one = torch.equal(latent, torch.arange(len(terms)))
        if len(used) < len(decoder):
            latents, decoder = latents[used.to(device)], decoder[used.to(device)]
        return Selection(
            latents,
            decoder,
            None if one_by_one else latent.to(device),
            terms.statistics_column.to(device),
            None if terms.detects.all() else terms.detector.to(device),
            terms.mask.to(device),
            bool(terms.steers.any()),
            terms.turns.to(device) if terms.turns.any() else None,
            bool(terms.turns.all()),
            terms.replaces.to(device) if terms.replaces.any() else None,
            (terms.detects & terms.replaces).to(device),
            mean_positions,
        )

    def of_terms(self, z: torch.Tensor) -> torch.Tensor:
        """Every term's latent: z [images, latents, positions] -> [images, terms, positions]."""
        return z if self.latent is None else z[:, self.latent]

    def lowest(self, values: torch.Tensor, moved: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Where terms move their latents, the lowest of the values of those that share one; elsewhere z. Shaped as z.

        values and moved [images, terms, positions], z [images, latents, positions].
        """
        if self.latent is None:
            return values
        places = self.latent[:, None].expand_as(values)
        lowest = z.scatter_reduce(1, places, values.masked_fill(~moved, torch.inf), "amin", include_self=False)
        return torch.where(lowest.isinf(), z, lowest)

    def summed(self, values: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """The values [images, terms, positions], added up where terms share a latent; shaped as z."""
        return values if self.latent is None else torch.zeros_like(z).index_add_(1, self.latent, values)

    def asks(self, z: torch.Tensor, levels: TermLevels, earlier: torch.Tensor | None) -> torch.Tensor:
        """Where `fires` may depend on what topk drops of z, bool [images, positions]. z: as before_topk gives it."""
        values = self.of_terms(z)
        asked = self.fires(z, levels, earlier)
        if self.mean_positions:
            shown = shown_in_maps(values, values > levels.gate, levels, self.mean_positions, earlier)
            asked |= (values > 0) & shown & (levels.detection > 0)  # a mean has what stays below the gate as well
        return asked.any(dim=1)

    def fires(self, z: torch.Tensor, levels: TermLevels, earlier: torch.Tensor | None) -> torch.Tensor:
        """Where terms pass their gates, in maps that show their concepts, bool. earlier: as of shown_in_maps."""
        values = self.of_terms(z)
        passes = values > levels.gate
        if self.detector is None and not self.mean_positions:
            return passes
        shown = shown_in_maps(values, passes, levels, self.mean_positions, earlier)
        return passes & (shown if self.detector is None else shown[:, self.detector])
