"""From a cache to SAE files: both training phases and the assignment between them."""

import copy
import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from ..sae_ops.sae_file import save_sae
from . import distributed
from .assign import assign_latents, carriers_of, latent_means, latent_scores, similarity
from .calibrate import estimate_threshold
from .checkpoint import Checkpoints
from .config import TrainingConfig
from .finish import Made, finish
from .hookpoint_data import HookpointData, choose_half, read_hookpoint
from .learner import Learner, new_autoencoder
from .losses import fvu, guidance_loss
from .measure import balanced_accuracy
from .phases import CHOOSE, COMPARE, FINISHED, RECONSTRUCT, SUPERVISE, Progress, Run, run_phase
from .plan import Order, Plan, check_examples
from .sparse import reconstruct
from .stream import Stream
from .tasks import ConceptTask, DrawnTask, Task


def build_saes(
    plan: Plan, *, memory: int, checkpoint_folder: Path, checkpoint_seconds: float, restart: bool, progress: Progress
) -> list[Made]:
    """Trains all SAEs of the plan in one pass over the cache and writes their files.

    memory: bytes for buffered activations. checkpoint_folder: from there the same call goes on after a stop, to the
    same bytes on the same CPU; it is gone when all is done. Raises ValueError if the numbers do not fit, or the
    checkpoints belong to another training; CacheError if the shards that can be read have become too few.
    """
    check_examples(plan)
    orders = plan.orders
    points = dict.fromkeys(order.hookpoint for order in orders)
    data = {point: read_hookpoint(plan, point, memory // len(points), progress) for point in points}
    _check_batches(plan.config, [each.training_stream for each in data.values()])
    learners = [_learner(plan, order, data[order.hookpoint]) for order in orders]
    checkpoints = Checkpoints(checkpoint_folder, _settings(plan, memory), restart)
    run = Run(learners, plan.config, checkpoints, checkpoint_seconds, progress)
    if not run.resume() and (plan.base or not plan.config.unsupervised_steps):
        run.phase = SUPERVISE
    if run.phase == RECONSTRUCT:
        _reconstruct(plan, run, data)
        run.begin(SUPERVISE)
    if not run.carriers:
        run.carriers = [
            _assigned(plan, learner, data[order.hookpoint]) for order, learner in zip(orders, learners, strict=True)
        ]
        run.save()
    if run.phase == SUPERVISE:
        _supervise(plan, run, data)
        run.begin(FINISHED)
    finished = [
        finish(plan, order, learner, carriers, data[order.hookpoint], track)
        for order, learner, carriers, track in zip(orders, learners, run.carriers, run.tracks, strict=True)
    ]
    if distributed.rank() == 0:
        for made, learner in zip(finished, learners, strict=True):
            save_sae(made.out, learner.sae, made.header, made.statistics)
        run.checkpoints.remove()
    return finished


def _reconstruct(plan: Plan, run: Run, data: dict[str, HookpointData]) -> None:
    """The first phase: the SAEs learn to reconstruct activations, whatever they show."""
    points = [order.hookpoint for order in plan.orders]

    def step(index: int, batch: dict, done: float) -> dict[str, torch.Tensor]:
        return run.learners[index].reconstruct(batch[points[index]].to(distributed.device()), done)

    def validate(index: int) -> dict[str, float]:
        return _validate(run.learners[index], data[points[index]], None)

    def batches(start: int) -> Iterator[dict]:
        return _side_by_side(
            {point: each.training_stream.vectors(plan.config.vectors, start) for point, each in data.items()}
        )

    run_phase(run, plan.config.unsupervised_steps, batches, step, validate)


def _supervise(plan: Plan, run: Run, data: dict[str, HookpointData]) -> None:
    """The second phase: latents learn the labels to which they were assigned."""
    points = [order.hookpoint for order in plan.orders]
    labels = plan.cache.labels(plan.labels).float()
    tasks = [
        _task(plan, learner, carriers, data[point])
        for learner, carriers, point in zip(run.learners, run.carriers, points, strict=True)
    ]

    def step(index: int, batch: dict, done: float) -> dict[str, torch.Tensor]:
        maps, unprompted, images = batch[points[index]]
        maps, unprompted = choose_half(plan, maps, unprompted)
        return run.learners[index].supervise(maps, unprompted, labels[images].to(maps.device), tasks[index], done)

    def validate(index: int) -> dict[str, float]:
        return _validate(run.learners[index], data[points[index]], tasks[index])

    def batches(start: int) -> Iterator[dict]:
        return _side_by_side(
            {point: each.training_stream.maps(plan.config.maps, start) for point, each in data.items()}
        )

    run_phase(run, plan.config.supervised_steps, batches, step, validate)


def _side_by_side(streams: dict[str, Iterator]) -> Iterator[dict]:
    """The next batch of every hookpoint, without end."""
    while True:
        yield {point: next(stream) for point, stream in streams.items()}


def _settings(plan: Plan, memory: int) -> dict:
    """All that the bytes of the SAEs depend on: checkpoints of a training with other settings are not gone on from."""
    return {
        "config": asdict(plan.config),
        "orders": [[o.hookpoint, asdict(o.config), str(o.out.resolve())] for o in plan.orders],
        "concepts": plan.concepts,
        "cache": plan.cache.digest,
        "base": hashlib.sha256(plan.base.path.read_bytes()).hexdigest() if plan.base else None,
        "memory": memory,
        "processes": distributed.processes(),
    }


def _check_batches(config: TrainingConfig, streams: list[Stream]) -> None:
    """Warns if a step cannot have as many maps as it should; raises ValueError if a process would have none."""
    fewest, most = (min(numbers) for numbers in zip(*(stream.maps_of_a_load for stream in streams), strict=True))
    supervises, processes = config.supervised_steps > 0, distributed.processes()
    smallest = min(config.vectors, config.maps, fewest) if supervises else config.vectors
    if smallest < processes:
        raise ValueError(
            f"{processes} processes share each step, but it may have {smallest} of --vectors or --maps. Start fewer "
            "processes, or raise --vectors, --maps and --memory."
        )
    if supervises and most < config.maps and distributed.rank() == 0:
        warnings.warn(
            f"A step has {most} maps, not {config.maps}: there are no more in memory at once. Raise --memory for more, "
            "or collect more images if that holds them all.",
            stacklevel=3,
        )


def _learner(plan: Plan, order: Order, data: HookpointData) -> Learner:
    device = distributed.device()
    if plan.base is None:
        sample = next(data.training_stream.vectors(100_000))
        return Learner(new_autoencoder(order.config, sample, plan.config.seed).to(device), plan.config)
    sae = copy.deepcopy(plan.base.sae).requires_grad_(True).to(device)
    return Learner(sae, plan.config, only=torch.zeros(sae.config.n_latents, dtype=torch.bool, device=device))


def _assigned(plan: Plan, learner: Learner, data: HookpointData) -> list[list[int]]:
    """The latents that carry each label, as they are kept or as they shall learn it.

    One alone for each, or all that a concept has if they learn together.
    """
    config = plan.config
    n = learner.sae.config.n_latents
    free = plan.base.free_latents() if plan.base else torch.ones(n, dtype=torch.bool)
    if plan.base is None and not config.unsupervised_steps:
        scores = torch.rand(len(plan.labels), n, generator=torch.Generator().manual_seed(config.seed))
    else:
        if plan.base is None:
            estimate_threshold(learner.sae, data.training_stream.vectors(config.vectors))
        scores = latent_scores(latent_means(learner.sae, data.told_as(CHOOSE, data.training_images)))
    scores[:, ~free] = -torch.inf
    kept = plan.kept_latents
    scores = scores[[label not in kept for label in plan.labels]]
    count = plan.latents_each(int(free.sum())) if plan.learns_with_all else 1
    found = iter(carriers_of(scores, assign_latents(scores, config.assignment), count))
    return [kept.get(label) or next(found) for label in plan.labels]


def _task(plan: Plan, learner: Learner, carriers: list[list[int]], data: HookpointData) -> Task:
    shown = plan.cache.labels(plan.concepts)[data.training_stream.images]
    if plan.learns_drawn:
        return DrawnTask(carriers, shown, learner.sae.W_enc.device)
    if learner.only is not None:
        learning = [carriers[plan.labels.index(label)] for label in plan.learning_labels]
        learner.only[[latent for own in learning for latent in own]] = True
    concepts = plan.without_other_labels(data.told_as(COMPARE, data.training_images))
    groups = [group for group, _ in plan.concepts]
    return ConceptTask(carriers, groups, shown, similarity(learner.sae, concepts))


@torch.no_grad()
def _validate(learner: Learner, data: HookpointData, task: Task | None) -> dict[str, float]:
    """FVU, and with a task its loss and balanced accuracy, on the held-out maps."""
    sae = learner.sae
    x = sae.normalise(data.validation_maps)
    reconstruction, _ = reconstruct(sae, x.flatten(0, 1), learner.dtype)
    unexplained = fvu(x.flatten(0, 1), reconstruction).item()
    if task is None:
        return {"loss": unexplained, "fvu": unexplained}
    logits, *others = task.read(sae, x)
    named = data.validation_labels.to(x.device)
    labels = named[:, : task.concepts]
    concepts = task.loss(logits, *others, labels=labels, config=learner.config).item()
    guidance = {}
    if data.validation_unprompted is not None:
        difference = x - sae.normalise(data.validation_unprompted)
        left = guidance_loss(sae, x, difference, task.carriers, named)
        guidance["guidance"] = (left / difference.square().sum().clamp(min=1e-9)).item()
    accuracy = balanced_accuracy(logits > 0, labels > 0)
    return {
        "loss": unexplained
        + learner.config.concept_weight * concepts
        + learner.config.guidance_weight * guidance.get("guidance", 0.0),
        "fvu": unexplained,
        "concept loss": concepts,
        **guidance,
        **({} if accuracy.isnan() else {"accuracy": accuracy.item()}),
    }
