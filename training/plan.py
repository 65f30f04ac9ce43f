"""What is to be trained on what, checked before anything starts."""

from dataclasses import dataclass, replace
from pathlib import Path

from ..sae_ops.autoencoder import SAEConfig
from ..sae_ops.concepts import Concept
from .cache.manifest import CacheError
from .cache.reader import Cache
from .config import TrainingConfig
from .data import LabelledImages
from .extend import Base, open_base
from .held_out import holds_text, training_and_validation

CONCEPT_LATENTS, DRAWN_LATENTS = 24, 8
"""How many latents a concept has if nothing else is asked for; the second with the branch "uncond"."""
GUIDED_TURN = 1.7
"""Latents that have learned what a concept's name brings need less than others to turn the picture away from it."""
SPARING_TURN = 2.4
"""The same where look-alikes are spared: they no longer pay for it."""


@dataclass(frozen=True)
class Order:
    """One SAE to be made."""

    hookpoint: str
    config: SAEConfig
    out: Path


@dataclass(frozen=True)
class Plan:
    """A training: which SAEs are to be made from which cache."""

    cache: Cache
    orders: list[Order]
    concepts: list[tuple[str, str]]
    """(group, name) of every concept to be trained."""
    config: TrainingConfig
    base: Base | None
    """An SAE whose concepts all stay; only latents for others are trained, and all else in it keeps its values."""

    @property
    def learns_prompted(self) -> bool:
        """Whether concepts' latents learn what prompts bring, by the guidance loss."""
        trains = self.config.supervised_steps > 0 and self.config.guidance_weight > 0
        return trains and self.cache.halves == 2 and not self.learns_drawn

    @property
    def learns_drawn(self) -> bool:
        """Whether concepts' latents learn what is drawn, from the half of guidance that reads no prompt."""
        return self.config.branch == "uncond"

    @property
    def learns_with_all(self) -> bool:
        """Whether all latents of a concept learn; else one does, and others are added to it afterwards."""
        return self.learns_prompted or self.learns_drawn

    @property
    def turn(self) -> float:
        """How far the edit turns the concepts' latents around at strength 1."""
        if not self.learns_prompted:
            return Concept.turn
        return SPARING_TURN if self.config.spare_look_alikes else GUIDED_TURN

    @property
    def labels(self) -> list[tuple[str, str]]:
        """The concepts first; with the guidance loss also all others that the prompts name, which are not written."""
        named = [(group, name) for group, names in self.cache.groups().items() for name in names]
        return self.concepts + [label for label in named if self.learns_prompted and label not in self.concepts]

    @property
    def kept_latents(self) -> dict[tuple[str, str], list[int]]:
        """With the guidance loss, the latents of labels for which the base has learned what they bring."""
        concepts = self.base.header.concepts if self.base and self.learns_prompted else ()
        return {(c.group, c.name): list(c.latents) for c in concepts if _is_guided(c)}

    @property
    def learning_labels(self) -> list[tuple[str, str]]:
        """The labels whose latents learn, in the order of labels; those of the others are kept."""
        kept = self.kept_latents
        return [label for label in self.labels if label not in kept]

    def latents_each(self, n_latents: int) -> int:
        """How many every label that learns has, of so many latents."""
        usual = DRAWN_LATENTS if self.learns_drawn else CONCEPT_LATENTS
        return self.config.concept_latents or max(1, min(usual, n_latents // len(self.learning_labels)))

    def without_other_labels(self, images: LabelledImages) -> LabelledImages:
        """The images, labelled with the concepts alone."""
        return replace(images, labels=images.labels[:, : len(self.concepts)])


def plan_training(
    cache: Cache, orders: list[Order], config: TrainingConfig, *, groups: list[str] | None, extend: Path | None
) -> Plan:
    """One latent for every label of these groups (None: of all), or for those that the SAE to extend does not know.

    Raises CacheError if the cache has no such labels, too few images with or without one, only one half of guidance
    where both are needed, or does not say how large maps are where that is; ValueError if an SAE has too few latents
    for them, or does not fit the cache.
    """
    base = open_base(extend, cache, orders[0].hookpoint) if extend else None
    plan = Plan(cache, orders, _concepts(cache, groups, base), config, base)
    if plan.learns_drawn and cache.halves < 2:
        raise CacheError(
            f"{cache.folder} holds the prompt's half of guidance alone, but what is drawn is learned from the other "
            "half. Collect again with the branch both."
        )
    if base is not None and config.guidance_weight > 0 and cache.halves < 2:
        guided = [concept.name for concept in base.header.concepts if _is_guided(concept)]
        if guided:
            raise CacheError(
                f"{cache.folder} holds the prompt's half of guidance alone, but the SAE to extend has learned "
                f"{', '.join(guided)} with the guidance loss, which needs both halves, and concepts added without it "
                "hardly erase. Collect again with the branch both (or train with --guidance-weight 0)."
            )
    if config.spare_look_alikes:
        for order in orders:
            cache.map_positions(order.hookpoint)  # before the training rather than after it
    if plan.learns_drawn and base is not None:
        raise ValueError("An SAE of the branch uncond cannot be extended. Train a new one on all concepts.")
    check_examples(plan)
    for order in orders:
        room = int(base.free_latents().sum()) if base else order.config.n_latents
        each = plan.latents_each(room) if plan.learns_with_all else 1
        needed = len(plan.learning_labels) * each
        if room < needed:
            what = "labels" if plan.learns_prompted else "concepts"
            free = "free latents of the SAE to extend" if base else "latents"
            wanted = "as many latents" if each == 1 else f"{each} latents each"
            raise ValueError(
                f"{len(plan.learning_labels)} {what} need {wanted}, but there are {room} {free}. Choose more --latents"
                f"{'' if each == 1 else ' or fewer --concept-latents'}."
            )
    return plan


def check_examples(plan: Plan) -> None:
    """Raises CacheError if a concept is in all or none of the images to train or to validate with."""
    cache = plan.cache
    for part, mask in zip(("training", "validation"), training_and_validation(cache), strict=True):
        shown = cache.labels(plan.concepts)[mask]
        counts = shown.sum(dim=0).tolist()
        bad = [
            f"'{name}' ({group}) is in {count} of the {len(shown)} {part} images"
            for (group, name), count in zip(plan.concepts, counts, strict=True)
            if not 0 < count < len(shown)
        ]
        if bad:
            more = "prompts (of a text encoder seeds do not count)" if holds_text(cache) else "prompts and seeds"
            or_else = ", or name the other groups with --groups" if len(cache.groups()) > 1 else ""
            raise CacheError(
                f"{'; '.join(bad)}, but there must be images with it and without it. Collect more {more}{or_else}."
            )


def _is_guided(concept: Concept) -> bool:
    """Whether its latents have learned by the guidance loss what its name brings."""
    return "explained" in concept.facts or concept.turn in (GUIDED_TURN, SPARING_TURN)  # older files lack the first


def _concepts(cache: Cache, groups: list[str] | None, base: Base | None) -> list[tuple[str, str]]:
    labels = cache.groups()
    if not labels:
        raise CacheError(
            f"{cache.folder} has no labels, so there is no concept to find. Collect with labelled prompts."
        )
    for group in groups or ():
        if group not in labels:
            raise CacheError(f"{cache.folder} has no labels of a group '{group}'. It has: {', '.join(labels)}.")
    known = {(concept.group, concept.name) for concept in base.header.concepts} if base else set()
    concepts = [(g, name) for g in dict.fromkeys(groups or labels) for name in labels[g] if (g, name) not in known]
    if not concepts:
        raise CacheError(f"{cache.folder} has no label that the SAE does not know already. There is nothing to add.")
    return concepts
