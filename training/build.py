"""From a cache to SAE files: both training phases, assignment, calibration, writing."""

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ..sae_ops.autoencoder import SAEConfig
from ..sae_ops.concepts import Concept
from ..sae_ops.file import SAEHeader, save_sae
from . import distributed
from .assign import assign_latents, carriers_of, companions, concept_scores, latent_means, similarity
from .cache import Cache, CacheError
from .calibrate import concept_statistics, estimate_threshold, typical_multiplier
from .checkpoint import Checkpoints
from .config import TrainingConfig
from .data import LabelledImages, choose_images
from .extend import Base, joined, open_base
from .learner import Learner, new_autoencoder
from .losses import fvu, guidance_loss
from .measure import Measurement, measure
from .phases import FINISHED, RECONSTRUCT, SUPERVISE, Progress, Run, Track, run_phase
from .sparse import reconstruct
from .stream import Stream, held_out, readable
from .tasks import ConceptTask, DrawnTask, Task

VALIDATION_VECTORS = 16_384
CONCEPT_LATENTS, GUIDED_LATENTS = 8, 24
"""Of every concept, if nothing else is asked for; the second with the guidance loss."""
GUIDED_TURN = 1.7
"""Latents that have learned what a concept's name brings need less than others to turn the picture away from it."""


@dataclass(frozen=True)
class Order:
    """One SAE to be made."""

    hookpoint: str
    sae: SAEConfig
    out: Path


@dataclass(frozen=True)
class Plan:
    """What is to be trained on what, checked."""

    cache: Cache
    orders: list[Order]
    concepts: list[tuple[str, str]]
    """(group, name) of every concept to be trained."""
    config: TrainingConfig
    base: Base | None
    """An SAE whose concepts all stay; only latents for others are trained, and all else in it keeps its values."""

    @property
    def guided(self) -> bool:
        """Whether concepts' latents learn what prompts bring, by the guidance loss."""
        trains = self.config.supervised_steps > 0 and self.config.guidance_weight > 0
        return trains and self.cache.halves == 2 and self.base is None and not self.drawn

    @property
    def drawn(self) -> bool:
        """Whether concepts' latents learn what is drawn, from the half of guidance that reads no prompt."""
        return self.config.branch == "uncond"

    @property
    def labels(self) -> list[tuple[str, str]]:
        """The concepts first; with the guidance loss also all others that the prompts name, which are not written."""
        named = [(group, name) for group, names in self.cache.groups().items() for name in names]
        return self.concepts + [label for label in named if self.guided and label not in self.concepts]


@dataclass(frozen=True)
class Made:
    """One SAE that was made, for the report."""

    out: Path
    header: SAEHeader
    measurement: Measurement
    track: Track


@dataclass(frozen=True)
class Data:
    """What one hookpoint gives."""

    stream: Stream
    training: LabelledImages
    validation: LabelledImages
    maps: torch.Tensor
    """Held-out maps, fp32 [maps, positions, d]; the same without the prompt, if they are there; their labels."""
    unprompted: torch.Tensor | None
    labels: torch.Tensor
    """[maps, labels]."""


def plan_training(
    cache: Cache, orders: list[Order], config: TrainingConfig, *, groups: list[str] | None, extend: Path | None
) -> Plan:
    """One latent for every label of these groups (None: of all), or for those that the SAE to extend does not know.

    Raises CacheError if the cache has no such labels, or too few images with or without one; ValueError if an SAE has
    too few latents for them, or does not fit the cache.
    """
    base = open_base(extend, cache, orders[0].hookpoint) if extend else None
    plan = Plan(cache, orders, _concepts(cache, groups, base), config, base)
    if plan.drawn and cache.halves < 2:
        raise CacheError(
            f"{cache.folder} holds the prompt's half of guidance alone, but what is drawn is learned from the other "
            "half. Collect again with the branch both."
        )
    if plan.drawn and base is not None:
        raise ValueError("An SAE of the branch uncond cannot be extended. Train a new one on all concepts.")
    _check_examples(plan)
    for order in orders:
        room = int(base.free_latents().sum()) if base else order.sae.n_latents
        if room < len(plan.concepts):
            free = "free latents of the SAE to extend" if base else "latents"
            raise ValueError(f"{len(plan.concepts)} concepts need as many latents, but there are {room} {free}.")
    return plan


def build_saes(
    plan: Plan, *, memory: int, checkpoints: Path, checkpoint_seconds: float, restart: bool, progress: Progress
) -> list[Made]:
    """Trains all SAEs of the plan in one pass over the cache and writes their files.

    memory: bytes for buffered activations. checkpoints: a folder from which the same call goes on after a stop, to the
    same bytes on the same CPU; it is gone when all is done. Raises ValueError if the numbers do not fit, or the
    checkpoints belong to another training; CacheError if the shards that can be read have become too few.
    """
    _check_examples(plan)
    cache, orders, concepts, config = plan.cache, plan.orders, plan.concepts, plan.config
    points = [order.hookpoint for order in orders]
    share = memory // len(set(points))
    data = {point: _data(plan, point, share) for point in dict.fromkeys(points)}
    learners = [_learner(plan, order, data[order.hookpoint]) for order in orders]
    settings = {
        "config": asdict(config),
        "orders": [[o.hookpoint, asdict(o.sae), str(o.out.resolve())] for o in orders],
        "concepts": concepts,
        "cache": asdict(cache.settings),
        "images": cache.images,
        "base": hashlib.sha256(plan.base.path.read_bytes()).hexdigest() if plan.base else None,
        "memory": memory,
        "processes": distributed.processes(),
    }
    run = Run(learners, config, Checkpoints(checkpoints, settings, restart), checkpoint_seconds, progress)
    resumed = run.resume()
    if not resumed and (plan.base or not config.unsupervised_steps):
        run.phase = SUPERVISE

    def batches(kind: str, size: int):
        def start_at(start: int) -> Iterator[dict]:
            streams = {point: getattr(d.stream, kind)(size, start) for point, d in data.items()}
            while True:
                yield {point: next(stream) for point, stream in streams.items()}

        return start_at

    if run.phase == RECONSTRUCT:
        run_phase(
            run,
            config.unsupervised_steps,
            batches("vectors", config.vectors),
            lambda i, batch, done: learners[i].reconstruct(batch[points[i]].to(distributed.device()), done),
            lambda i: _validate(learners[i], data[points[i]], None),
        )
        run.begin(SUPERVISE)
    if not run.carriers:
        run.carriers = [_assigned(plan, learner, data[p]) for learner, p in zip(learners, points, strict=True)]
    if run.phase == SUPERVISE:
        tasks = [
            _task(plan, learner, carriers, data[point].training)
            for learner, carriers, point in zip(learners, run.carriers, points, strict=True)
        ]
        labels = cache.labels(plan.labels).float()

        def supervise(i: int, batch: dict, done: float) -> dict[str, torch.Tensor]:
            maps, unprompted, images = batch[points[i]]
            maps, unprompted = _learned_from(plan, maps, unprompted)
            return learners[i].supervise(maps, unprompted, labels[images].to(maps.device), tasks[i], done)

        run_phase(
            run,
            config.supervised_steps,
            batches("maps", config.maps),
            supervise,
            lambda i: _validate(learners[i], data[points[i]], tasks[i]),
        )
        run.begin(FINISHED)
    made = []
    for order, learner, carriers, track in zip(orders, learners, run.carriers, run.tracks, strict=True):
        made.append(_finished(plan, order, learner, carriers[: len(concepts)], data[order.hookpoint], track))
    if distributed.rank() == 0:
        run.checkpoints.remove()
    return made


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


def _check_examples(plan: Plan) -> None:
    """Raises CacheError if a concept is in all or none of the images to train or to validate with."""
    cache = plan.cache
    masks = {"training": readable(cache) & ~held_out(cache), "validation": readable(cache) & held_out(cache)}
    for part, mask in masks.items():
        shown = cache.labels(plan.concepts)[mask]
        for (group, name), column in zip(plan.concepts, shown.T, strict=True):
            if not 0 < column.sum() < len(shown):
                raise CacheError(
                    f"'{name}' ({group}) is in {int(column.sum())} of the {len(shown)} {part} images, but there must "
                    "be images with it and without it. Collect more prompts and seeds."
                )


def _data(plan: Plan, hookpoint: str, memory: int) -> Data:
    cache, concepts, config = plan.cache, plan.concepts, plan.config
    valid, training = readable(cache) & held_out(cache), readable(cache) & ~held_out(cache)
    stream = Stream(cache, hookpoint, training, buffer_bytes=memory, seed=config.seed)
    _, positions, _ = cache.shape(hookpoint)
    held = Stream(cache, hookpoint, valid, buffer_bytes=memory, seed=config.seed)
    maps, unprompted, images = next(held.maps(max(8, VALIDATION_VECTORS // positions)))
    maps, unprompted = _learned_from(plan, maps, unprompted)
    return Data(
        stream,
        choose_images(cache, hookpoint, training, plan.labels, config.statistics_vectors, config.branch),
        choose_images(cache, hookpoint, valid, concepts, config.statistics_vectors // 4, config.branch),
        maps,
        unprompted,
        cache.labels(plan.labels)[images].float(),
    )


def _learned_from(
    plan: Plan, maps: torch.Tensor, unprompted: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The maps that concepts are learned from, and with the guidance loss those that they are compared with."""
    device = distributed.device()
    if unprompted is None or not (plan.drawn or plan.guided):
        return maps.to(device), None
    return (unprompted.to(device), None) if plan.drawn else (maps.to(device), unprompted.to(device))


def _learner(plan: Plan, order: Order, data: Data) -> Learner:
    device = distributed.device()
    if plan.base is None:
        sample = next(data.stream.vectors(100_000))
        return Learner(new_autoencoder(order.sae, sample, plan.config.seed).to(device), plan.config)
    sae = copy.deepcopy(plan.base.sae).requires_grad_(True).to(device)
    return Learner(sae, plan.config, only=torch.zeros(sae.config.n_latents, dtype=torch.bool, device=device))


def _assigned(plan: Plan, learner: Learner, data: Data) -> list[list[int]]:
    """The latents that learn to carry each label: one alone; all that a concept has if they learn together."""
    config = plan.config
    n = learner.sae.config.n_latents
    usual = GUIDED_LATENTS if plan.guided else CONCEPT_LATENTS
    together = config.concept_latents or max(1, min(usual, n // len(plan.labels)))
    count = together if plan.guided or plan.drawn else 1
    if plan.base is None and not config.unsupervised_steps:
        scores = torch.rand(len(plan.labels), n, generator=torch.Generator().manual_seed(config.seed))
    else:
        if plan.base is None:
            estimate_threshold(learner.sae, data.stream.vectors(config.vectors))
        scores = concept_scores(latent_means(learner.sae, data.training))
    if plan.base is not None:
        scores[:, ~plan.base.free_latents()] = -1e9
    return carriers_of(scores, assign_latents(scores, config.assignment), count)


def _labelled_with_concepts(plan: Plan, images: LabelledImages) -> LabelledImages:
    """Without the labels that are no concepts."""
    return replace(images, labels=images.labels[:, : len(plan.concepts)])


def _task(plan: Plan, learner: Learner, carriers: list[list[int]], images: LabelledImages) -> Task:
    if plan.drawn:
        return DrawnTask(carriers, images.labels, learner.sae.W_enc.device)
    if learner.only is not None:
        learner.only[[own for own, *_ in carriers]] = True
    concepts = _labelled_with_concepts(plan, images)
    groups = [group for group, _ in plan.concepts]
    return ConceptTask(carriers, groups, concepts.labels, similarity(learner.sae, concepts))


@torch.no_grad()
def _validate(learner: Learner, data: Data, task: Task | None) -> dict[str, float]:
    """FVU, and with a task its loss and balanced accuracy, on the held-out maps."""
    sae = learner.sae
    x = sae.normalise(data.maps)
    reconstruction, _ = reconstruct(sae, x.flatten(0, 1), learner.dtype)
    unexplained = fvu(x.flatten(0, 1), reconstruction).item()
    if task is None:
        return {"loss": unexplained, "fvu": unexplained}
    logits, *others = task.read(sae, x)
    named = data.labels.to(x.device)
    labels = named[:, : task.concepts]
    concepts = task.loss(logits, *others, labels=labels, config=learner.config).item()
    guidance = {}
    if data.unprompted is not None:
        difference = x - sae.normalise(data.unprompted)
        left = guidance_loss(sae, x, difference, task.carriers, named)
        guidance["guidance"] = (left / difference.square().sum().clamp(min=1e-9)).item()
    yes, no = labels > 0, labels == 0
    hit = ((logits > 0) & yes).sum(dim=0) / yes.sum(dim=0).clamp(min=1)
    spared = ((logits <= 0) & no).sum(dim=0) / no.sum(dim=0).clamp(min=1)
    return {
        "loss": unexplained
        + learner.config.concept_weight * concepts
        + learner.config.guidance_weight * guidance.get("guidance", 0.0),
        "fvu": unexplained,
        "concept loss": concepts,
        **guidance,
        "accuracy": ((hit + spared) / 2).mean().item(),
    }


def _finished(plan: Plan, order: Order, learner: Learner, carriers: list[list[int]], data: Data, track: Track) -> Made:
    """Threshold, statistics, multipliers, measurement; writes the file. carriers: those of each concept."""
    sae, cache, base = learner.sae.requires_grad_(False), plan.cache, plan.base
    if base is None:
        estimate_threshold(sae, data.stream.vectors(plan.config.vectors))
    images = _labelled_with_concepts(plan, data.training)
    means = latent_means(sae, images)
    owned = [tuple(own) for own in carriers]
    if not (plan.guided or plan.drawn):
        latents = [own for own, *_ in carriers]
        taken = [] if base is None else [concept.latents[0] for concept in base.header.concepts]
        owned = companions(concept_scores(means), latents, plan.config.concept_latents or CONCEPT_LATENTS, taken)
    turn = GUIDED_TURN if plan.guided else Concept.turn
    statistics = concept_statistics(means, images.levels()[0], owned, guided=plan.guided)
    measurement = measure(sae, carriers if plan.drawn else [[own] for own, *_ in carriers], data.validation)
    found = tuple(
        Concept(
            name,
            group,
            own,
            typical_multiplier(means, index, own[0], turn),
            turn,
            first_detects=not plan.drawn,
            facts={"balanced_accuracy": round(float(accuracy), 4), "separation": round(float(separation), 2)},
        )
        for index, ((group, name), own, accuracy, separation) in enumerate(
            zip(plan.concepts, owned, measurement.accuracy, measurement.separation, strict=True)
        )
    )
    header = SAEHeader(
        hookpoint=order.hookpoint,
        model_family=cache.settings.model_family,
        autoencoder=sae.config,
        hooked=cache.settings.hooked,
        branch=plan.config.branch,
        concepts=found,
        training={
            **asdict(plan.config),
            "cache": cache.digest,
            "sampling": cache.settings.sampling,
            "images": len(cache.images),
            "validation": {
                "fvu": round(measurement.overall_fvu, 4),
                "l0": round(measurement.overall_l0, 2),
                "never_fired": measurement.never_fired,
            },
        },
    )
    if base is not None:
        old = base.header
        header = replace(header, concepts=old.concepts + found, training={**header.training, "extended": old.training})
        statistics = joined(base.statistics, statistics)
    if distributed.rank() == 0:
        save_sae(order.out, sae, header, statistics)
    return Made(order.out, header, measurement, track)
