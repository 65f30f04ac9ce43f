"""From a cache to SAE files: both training phases, assignment, calibration, writing."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ..sae_ops.autoencoder import SAEConfig, SparseAutoencoder
from ..sae_ops.concepts import Concept
from ..sae_ops.file import SAEHeader, load_sae, save_sae
from . import distributed
from .assign import assign_latents, concept_scores, latent_means, similarity
from .cache import Cache, CacheError
from .calibrate import calibrated_multipliers, concept_statistics, estimate_threshold, joined
from .checkpoint import Checkpoints
from .config import TrainingConfig
from .data import LabelledImages, choose_images
from .learner import ConceptTask, Learner, logits_and_firing, new_autoencoder
from .losses import fvu
from .measure import Measurement, measure
from .phases import FINISHED, RECONSTRUCT, SUPERVISE, Progress, Run, Track, run_phase
from .sparse import reconstruct
from .stream import Stream, held_out, readable

VALIDATION_VECTORS = 16_384


@dataclass(frozen=True)
class Order:
    """One SAE to be made."""

    hookpoint: str
    sae: SAEConfig
    out: Path


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
    """Held-out maps, fp32 [maps, positions, d], and their labels [maps, concepts]."""
    labels: torch.Tensor


def build_saes(
    cache: Cache,
    orders: list[Order],
    config: TrainingConfig,
    *,
    groups: list[str] | None,
    extend: Path | None,
    memory: int,
    checkpoints: Path,
    checkpoint_seconds: float,
    restart: bool,
    progress: Progress,
) -> list[Made]:
    """Trains SAEs with one latent for every label of these groups (None: of all), in one pass over the cache.

    extend: an SAE file whose concepts all stay; only latents for labels that it does not know are trained, and all else
    in it keeps its values. memory: bytes for buffered activations. checkpoints: a folder from which the same call goes
    on after a stop, to the same bytes on the same CPU; it is gone when all is done.

    Raises CacheError if the cache has no such labels, or too few images with or without one; ValueError if the numbers
    do not fit, or the checkpoints belong to another training.
    """
    base = load_sae(extend) if extend else None
    concepts = _concepts(cache, groups, base[1] if base else None)
    points = [order.hookpoint for order in orders]
    share = memory // len(set(points))
    data = {point: _data(cache, point, concepts, config, share) for point in dict.fromkeys(points)}
    learners = [_learner(order, data[order.hookpoint], config, base, concepts) for order in orders]
    settings = {
        "config": asdict(config),
        "orders": [[o.hookpoint, asdict(o.sae), str(o.out)] for o in orders],
        "concepts": concepts,
        "cache": asdict(cache.settings),
        "images": cache.images,
        "base": hashlib.sha256(extend.read_bytes()).hexdigest() if extend else None,
        "memory": memory,
        "processes": distributed.processes(),
    }
    run = Run(learners, config, Checkpoints(checkpoints, settings, restart), checkpoint_seconds, progress)
    resumed = run.resume()
    if not resumed and (base or not config.unsupervised_steps):
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
    if not run.latents:
        run.latents = [
            _assigned(learner, data[point], config, base) for learner, point in zip(learners, points, strict=True)
        ]
    if run.phase == SUPERVISE:
        tasks = [
            _task(learner, latents, concepts, data[point].training)
            for learner, latents, point in zip(learners, run.latents, points, strict=True)
        ]
        labels = cache.labels(concepts).float()

        def supervise(i: int, batch: dict, done: float) -> dict[str, torch.Tensor]:
            maps, images = batch[points[i]]
            device = distributed.device()
            return learners[i].supervise(maps.to(device), labels[images].to(device), tasks[i], done)

        run_phase(
            run,
            config.supervised_steps,
            batches("maps", config.maps),
            supervise,
            lambda i: _validate(learners[i], data[points[i]], tasks[i]),
        )
        run.begin(FINISHED)
    made = []
    for order, learner, latents, track in zip(orders, learners, run.latents, run.tracks, strict=True):
        made.append(_finished(cache, order, learner, latents, concepts, data[order.hookpoint], config, base, track))
    if distributed.rank() == 0:
        run.checkpoints.remove()
    return made


def _concepts(cache: Cache, groups: list[str] | None, base: SAEHeader | None) -> list[tuple[str, str]]:
    """(group, name) of every concept to be trained."""
    labels = cache.groups()
    if not labels:
        raise CacheError(
            f"{cache.folder} has no labels, so there is no concept to find. Collect with labelled prompts."
        )
    for group in groups or ():
        if group not in labels:
            raise CacheError(f"{cache.folder} has no labels of a group '{group}'. It has: {', '.join(labels)}.")
    known = {(concept.group, concept.name) for concept in base.concepts} if base else set()
    concepts = [(g, name) for g in dict.fromkeys(groups or labels) for name in labels[g] if (g, name) not in known]
    if not concepts:
        raise CacheError(f"{cache.folder} has no label that the SAE does not know already. There is nothing to add.")
    masks = {"training": readable(cache) & ~held_out(cache), "validation": readable(cache) & held_out(cache)}
    for part, mask in masks.items():
        shown = cache.labels(concepts)[mask]
        for (group, name), column in zip(concepts, shown.T, strict=True):
            if not 0 < column.sum() < len(shown):
                raise CacheError(
                    f"'{name}' ({group}) is in {int(column.sum())} of the {len(shown)} {part} images, but there must "
                    "be images with it and without it. Collect more prompts and seeds."
                )
    return concepts


def _data(cache, hookpoint, concepts, config, memory) -> Data:
    valid, training = readable(cache) & held_out(cache), readable(cache) & ~held_out(cache)
    stream = Stream(cache, hookpoint, training, buffer_bytes=memory, seed=config.seed)
    _, positions, _ = cache.shape(hookpoint)
    held = Stream(cache, hookpoint, valid, buffer_bytes=memory, seed=config.seed)
    maps, images = next(held.maps(max(8, VALIDATION_VECTORS // positions)))
    return Data(
        stream,
        choose_images(cache, hookpoint, training, concepts, config.statistics_vectors),
        choose_images(cache, hookpoint, valid, concepts, config.statistics_vectors // 4),
        maps,
        cache.labels(concepts)[images].float(),
    )


def _learner(order: Order, data: Data, config: TrainingConfig, base, concepts: list) -> Learner:
    device = distributed.device()
    if base is None:
        if order.sae.n_latents < len(concepts):
            raise ValueError(
                f"{len(concepts)} concepts need as many latents, not {order.sae.n_latents}. Choose a larger number."
            )
        sample = next(data.stream.vectors(100_000))
        return Learner(new_autoencoder(order.sae, sample, config.seed).to(device), config)
    sae, header, _ = base
    settings = data.stream.cache.settings
    for its, ours in (
        (header.hookpoint, order.hookpoint),
        (header.model_family, settings.model_family),
        (f"the blocks' {header.hooked}", f"the blocks' {settings.hooked}"),
        (f"width {sae.config.d_in}", f"width {data.stream.width}"),
    ):
        if its != ours:
            raise ValueError(f"The SAE to extend belongs to {its}, not to {ours}.")
    free = _free_latents(header)
    if free.sum() < len(concepts):
        raise ValueError(f"{len(concepts)} concepts to add need as many free latents, but there are {int(free.sum())}.")
    sae.requires_grad_(True)
    return Learner(sae.to(device), config, only=torch.zeros(sae.config.n_latents, dtype=torch.bool, device=device))


def _free_latents(header: SAEHeader) -> torch.Tensor:
    free = torch.ones(header.autoencoder.n_latents, dtype=torch.bool)
    free[[latent for concept in header.concepts for latent in concept.latents]] = False
    return free


def _assigned(learner: Learner, data: Data, config: TrainingConfig, base) -> list[int]:
    """One latent for each concept; learns only those if it extends an SAE."""
    concepts = data.training.labels.shape[1]
    if base is None and not config.unsupervised_steps:
        order = torch.randperm(learner.sae.config.n_latents, generator=torch.Generator().manual_seed(config.seed))
        return order[:concepts].tolist()
    if base is None:
        estimate_threshold(learner.sae, data.stream.vectors(config.vectors))
    scores = concept_scores(latent_means(learner.sae, data.training))
    if base is not None:
        scores[:, ~_free_latents(base[1])] = -1e9
    return assign_latents(scores, config.assignment)


def _task(learner: Learner, latents: list[int], concepts: list, images: LabelledImages) -> ConceptTask:
    if learner.only is not None:
        learner.only[latents] = True
    return ConceptTask(latents, [group for group, _ in concepts], images.labels, similarity(learner.sae, images))


@torch.no_grad()
def _validate(learner: Learner, data: Data, task: ConceptTask | None) -> dict[str, float]:
    """FVU, and with a task its loss and balanced accuracy, on the held-out maps."""
    sae = learner.sae
    x = sae.normalise(data.maps.to(distributed.device()))
    reconstruction, _ = reconstruct(sae, x.flatten(0, 1), learner.dtype)
    unexplained = fvu(x.flatten(0, 1), reconstruction).item()
    if task is None:
        return {"loss": unexplained, "fvu": unexplained}
    logits, firing = logits_and_firing(sae, x, task.latents)
    labels = data.labels.to(x.device)
    concepts = task.loss(logits, firing, labels, learner.config).item()
    yes, no = labels > 0, labels == 0
    hit = ((logits > 0) & yes).sum(dim=0) / yes.sum(dim=0).clamp(min=1)
    spared = ((logits <= 0) & no).sum(dim=0) / no.sum(dim=0).clamp(min=1)
    return {
        "loss": unexplained + learner.config.concept_weight * concepts,
        "fvu": unexplained,
        "concept loss": concepts,
        "accuracy": ((hit + spared) / 2).mean().item(),
    }


def _finished(cache, order, learner, latents, concepts, data, config, base, track) -> Made:
    """Threshold, statistics, multipliers, measurement; writes the file."""
    sae: SparseAutoencoder = learner.sae.requires_grad_(False)
    if base is None:
        estimate_threshold(sae, data.stream.vectors(config.vectors))
    statistics = concept_statistics(sae, latents, data.training)
    multipliers = calibrated_multipliers(sae, latents, data.training, statistics)
    measurement = measure(sae, latents, data.validation)
    found = tuple(
        Concept(
            name,
            group,
            (latent,),
            multiplier,
            {"balanced_accuracy": round(float(accuracy), 4), "separation": round(float(separation), 2)},
        )
        for (group, name), latent, multiplier, accuracy, separation in zip(
            concepts, latents, multipliers, measurement.accuracy, measurement.separation, strict=True
        )
    )
    header = SAEHeader(
        hookpoint=order.hookpoint,
        model_family=cache.settings.model_family,
        autoencoder=sae.config,
        hooked=cache.settings.hooked,
        concepts=found,
        training={
            **asdict(config),
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
        _, old, old_statistics = base
        header = replace(header, concepts=old.concepts + found, training={**header.training, "extended": old.training})
        statistics = joined(old_statistics, statistics)
    if distributed.rank() == 0:
        save_sae(order.out, sae, header, statistics)
    return Made(order.out, header, measurement, track)
