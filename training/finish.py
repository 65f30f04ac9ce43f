"""The last step of training: threshold, statistics, multipliers and measurement."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ..sae_ops.concepts import Concept, ConceptStatistics
from ..sae_ops.sae_file import SAEFileError, SAEHeader, read_header
from .assign import companions, latent_means, latent_scores
from .calibrate import concept_statistics, estimate_threshold, typical_multiplier
from .distributed import device
from .extend import joined
from .hookpoint_data import HookpointData, batches_of_maps, choose_half
from .learner import Learner
from .look_alikes import sparing_look_alikes
from .measure import Measurement, explained_guidance, measure
from .phases import LOOK_ALIKES, MEASURE, STATISTICS, Track
from .plan import Order, Plan

EXPLAINED_MAPS_PER_LABEL = 16
"""At least and on average, to measure how much of what a name brings its latents explain."""


@dataclass(frozen=True)
class Made:
    """One SAE that was made, for its file and for the report; its weights are its learner's."""

    out: Path
    header: SAEHeader
    statistics: ConceptStatistics
    measurement: Measurement
    track: Track


def finish(
    plan: Plan, order: Order, learner: Learner, carriers: list[list[int]], data: HookpointData, track: Track
) -> Made:
    """Sets the threshold, chooses every concept's latents, and measures their statistics, strengths and quality.

    carriers: the latents of each label that have learned it.
    """
    sae, base = learner.sae.requires_grad_(False), plan.base
    if base is None:
        estimate_threshold(sae, data.training_stream.vectors(plan.config.vectors))
    images = plan.without_other_labels(data.training_images)
    means = latent_means(sae, data.told_as(STATISTICS, images))
    owned = [tuple(own) for own in carriers[: len(plan.concepts)]]
    if not plan.learns_with_all:
        latents = [own for own, *_ in owned]
        taken = [] if base is None else [concept.latents[0] for concept in base.header.concepts]
        owned = companions(latent_scores(means), latents, plan.latents_each(sae.config.n_latents), taken)
    statistics = concept_statistics(means, images.levels()[0], owned, guided=plan.learns_prompted)
    if plan.config.spare_look_alikes:
        statistics = sparing_look_alikes(statistics, sae, data.told_as(LOOK_ALIKES, images), owned)
    telling = [list(own if plan.learns_drawn else own[:1]) for own in owned]
    measurement = measure(sae, telling, data.told_as(MEASURE, data.validation_images))
    facts = [
        {"balanced_accuracy": round(float(accuracy), 4), "separation": round(float(separation), 2)}
        for accuracy, separation in zip(measurement.accuracy, measurement.separation, strict=True)
    ]
    if plan.learns_prompted:
        explained = explained_guidance(sae, _validation_batches(plan, data), carriers)
        for known, share in zip(facts, explained, strict=False):
            known |= {"explained": round(share, 2)} if share is not None else {}
    found = tuple(
        Concept(
            name,
            group,
            own,
            typical_multiplier(means, index, own[0], plan.turn),
            plan.turn,
            first_detects=not plan.learns_drawn,
            facts=known,
        )
        for index, ((group, name), own, known) in enumerate(zip(plan.concepts, owned, facts, strict=True))
    )
    header = _header(plan, order, found, measurement)
    if base is not None:
        old = base.header
        header = replace(header, concepts=old.concepts + found, training={**header.training, "extended": old.training})
        statistics = joined(base.statistics, statistics)
    return Made(order.out, header, statistics, measurement, track)


def _validation_batches(plan: Plan, data: HookpointData) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Maps that are not trained on, with the prompt and without, and their labels; enough for every label."""
    labels = plan.cache.labels(plan.labels).float()
    for maps, unprompted, images in batches_of_maps(
        data.validation_stream, EXPLAINED_MAPS_PER_LABEL * len(plan.labels)
    ):
        maps, unprompted = choose_half(plan, maps, unprompted)
        assert unprompted is not None
        yield maps, unprompted, labels[images].to(maps.device)


def is_made(plan: Plan, order: Order) -> bool:
    """Whether the file that is ordered is there already, made by this very training."""
    try:
        header = read_header(order.out)
    except SAEFileError:
        return False
    is_for_it = (header.hookpoint, header.autoencoder) == (order.hookpoint, order.config)
    is_of_it = plan.config.has_trained(header.training) and header.training.get("cache") == plan.cache.digest
    return is_for_it and is_of_it


def _trained_with(plan: Plan) -> dict:
    """What all SAEs of the plan are trained with."""
    config = {**asdict(plan.config), "precision": plan.config.precision_on(device())}
    return {**config, "cache": plan.cache.digest}


def _header(plan: Plan, order: Order, concepts: tuple[Concept, ...], measurement: Measurement) -> SAEHeader:
    settings = plan.cache.settings
    return SAEHeader(
        hookpoint=order.hookpoint,
        model_family=settings.model_family,
        autoencoder=order.config,
        hooked=settings.hooked,
        branch=plan.config.branch,
        concepts=concepts,
        training={
            **_trained_with(plan),
            "sampling": settings.sampling,
            "images": len(plan.cache.images),
            "validation": {
                "fvu": round(measurement.overall_fvu, 4),
                "l0": round(measurement.overall_l0, 2),
                "never_fired": measurement.never_fired,
            },
        },
    )
