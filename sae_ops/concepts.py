"""Concepts: the latents that carry them and how strongly these fire at every noise level."""

import difflib
import unicodedata
from dataclasses import dataclass, field, replace

import torch


class UnknownConcept(ValueError):
    """The SAE has no concept of this name."""

    __module__ = "sae_eraser"  # as the page says it before the message


@dataclass(frozen=True)
class Concept:
    """One thing that can be erased."""

    name: str
    group: str
    """What kind of thing it is, e.g. "object" or "style"."""
    latents: tuple[int, ...]
    """Rows of W_enc and W_dec that carry it; after supervised training the first is its own."""
    multiplier: float = -1.0
    """gamma of the edit `scale` at strength 1.0 (SAeUron, arXiv 2501.18052)."""
    turn: float = 3.0
    """How far the edit `turn` turns latents around at strength 1.0: z' = -turn * z."""
    first_detects: bool = False
    """The first latent tells which pictures show the concept: only in these does any of its latents move."""
    facts: dict = field(default_factory=dict)
    """Measured while training: accuracy, separation and the like. Not used for erasing."""

    @property
    def label(self) -> str:
        """What tells it from a namesake of another group."""
        return f"{self.group}: {self.name}"


@dataclass(frozen=True)
class ConceptStatistics:
    """How strongly each concept's latents fire, over noise levels; all [sigmas, terms], in the units of pre_acts.

    A term is one latent of one concept, in the order of the concepts and of their `latents`.
    """

    sigmas: torch.Tensor
    """[sigmas], ascending, all positive."""
    with_concept: torch.Tensor
    """mu(i, sigma, D_c): mean over all positions of pictures that show the concept."""
    background: torch.Tensor
    """mu(i, sigma, D_not c): the same over pictures that do not."""
    overall: torch.Tensor
    """mu(i, sigma, D): the same over all pictures; the gate of the edit. 0 for latents that were trained to move with
    the concept's own wherever they fire."""
    detection: torch.Tensor | None = None
    """Which mean over the positions of a map a concept's first latent must reach once in a run, if it detects; 0 for
    all other terms. None: it must pass its gate somewhere, and no more."""
    positions: torch.Tensor | None = None
    """Over how many positions that mean is taken at most, a scalar; None without it. A larger map's sum is divided by
    these, since what fills a map that was trained on may be a small part of it."""

    def at(self, sigma: torch.Tensor, terms: torch.Tensor) -> dict[str, torch.Tensor]:
        """All tables at noise levels sigma [rows], each [rows, terms]; linear in log sigma, held at the ends."""
        grid = self.sigmas.log()
        place = sigma.to(grid).clamp(min=self.sigmas[0], max=self.sigmas[-1]).log()
        upper = torch.searchsorted(grid, place).clamp(1, max(1, len(grid) - 1))
        lower = upper - 1
        upper = upper.clamp(max=len(grid) - 1)
        span = (grid[upper] - grid[lower]).clamp(min=1e-12)
        weight = ((place - grid[lower]) / span).clamp(0, 1)[:, None]
        tables = {"with_concept": self.with_concept, "background": self.background, "overall": self.overall}
        tables |= {} if self.detection is None else {"detection": self.detection}
        return {
            name: torch.lerp(table[lower][:, terms], table[upper][:, terms], weight) for name, table in tables.items()
        }


def find_concept(concepts: tuple[Concept, ...], name: str) -> int:
    """The index of the concept of this name, whatever its case; "group: name" tells namesakes apart.

    Raises UnknownConcept, which lists those there are.
    """
    found = [index for index, concept in enumerate(concepts) if name in (concept.name, concept.label)]
    wanted = _comparable(name)
    for names in ([_comparable(concept.name) for concept in concepts], [_comparable(c.label) for c in concepts]):
        found = found or [index for index, own in enumerate(names) if own == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        choices = ", ".join(f"'{concepts[index].label}'" for index in found)
        raise UnknownConcept(f"'{name}' names {len(found)} concepts; write one of {choices}.")
    names = [concept.name for concept in concepts]
    if not names:
        raise UnknownConcept(
            f"This SAE has no concepts, so '{name.strip()}' cannot be found. Add concepts with 'sae-eraser train "
            "--extend', or with 'sae-eraser import --concepts' if its authors published a table of them."
        )
    folded = {_comparable(concept_name): concept_name for concept_name in names}
    near = difflib.get_close_matches(wanted.rpartition(":")[2].strip(), folded, n=1)
    hint = f" Did you mean '{folded[near[0]]}'?" if near else ""
    raise UnknownConcept(f"This SAE has no concept '{name.strip()}'.{hint} It has: {', '.join(names)}.")


def is_named(concepts: tuple[Concept, ...], name: str) -> bool:
    """Whether this is the whole name of one of the concepts, or of several, as find_concept compares them."""
    return _comparable(name) in {_comparable(own) for concept in concepts for own in (concept.name, concept.label)}


def _comparable(name: str) -> str:
    """Whatever its case, its spaces, and the way in which its accents are written."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("：", ":").replace(":", ": ").split())


def term_ranges(concepts: tuple[Concept, ...]) -> list[range]:
    """For every concept the columns of ConceptStatistics that belong to it."""
    ranges, start = [], 0
    for concept in concepts:
        ranges.append(range(start, start + len(concept.latents)))
        start += len(concept.latents)
    return ranges


def detecting_terms(concepts: tuple[Concept, ...]) -> list[range]:
    """For every concept the columns that tell whether a picture shows it: the first, if that detects, else all."""
    ranges = zip(concepts, term_ranges(concepts), strict=True)
    return [terms[:1] if concept.first_detects else terms for concept, terms in ranges]


def detecting_alone(
    concepts: tuple[Concept, ...], statistics: ConceptStatistics
) -> tuple[tuple[Concept, ...], ConceptStatistics]:
    """The concepts with those of their latents alone that tell whether a picture shows them, and their statistics."""
    columns = [term for terms in detecting_terms(concepts) for term in terms]
    tables = {name: getattr(statistics, name) for name in ("with_concept", "background", "overall", "detection")}
    own = {name: table[:, columns] for name, table in tables.items() if table is not None}
    firsts = (
        replace(concept, latents=concept.latents[:1]) if concept.first_detects else concept for concept in concepts
    )
    return tuple(firsts), replace(statistics, **own)
