"""From a cache to SAE files: both training phases and the assignment between them."""

import copy
import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from ..sae_ops.file import save_sae
from . import distributed
from .assign import assign_latents, carriers_of, latent_means, latent_scores, similarity
from .calibrate import estimate_threshold
from .checkpoint import Checkpoints
from .config import TrainingConfig
from .finish import Made, finish
from .hookpoint_data import HookpointData, learned_from, read_hookpoint
from .learner import Learner, new_autoencoder
from .losses import fvu, guidance_loss
from .measure import balanced_accuracy
from .phases import FINISHED, RECONSTRUCT, SUPERVISE, Progress, Run, run_phase
from .plan import Order, Plan, check_examples
from .sparse import reconstruct
from .stream import Stream
from .tasks import ConceptTask, DrawnTask, Task


def build_saes(
    plan: Plan, *, memory: int, checkpoints: Path, checkpoint_seconds: float, restart: bool, progress: Progress
) -> list[Made]:
    """Trains all SAEs of the plan in one pass over the cache and writes their files.

    memory: bytes for buffered activations. checkpoints: a folder from which the same call goes on after a stop, to the
    same bytes on the same CPU; it is gone when all is done. Raises ValueError if the numbers do not fit, or the
    checkpoints belong to another training; CacheError if the shards that can be read have become too few.
    """
    check_examples(plan)
    cache, orders, config = plan.cache, plan.orders, plan.config
    points = [order.hookpoint for order in orders]
    share = memory // len(set(points))
    data = {point: read_hookpoint(plan, point, share, progress) for point in dict.fromkeys(points)}
    _check_batches(config, [each.stream for each in data.values()])
    learners = [_learner(plan, order, data[order.hookpoint]) for order in orders]
    kept = Checkpoints(checkpoints, _settings(plan, memory), restart)
    run = Run(learners, config, kept, checkpoint_seconds, progress)
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
        run.save()
    if run.phase == SUPERVISE:
        tasks = [
            _task(plan, learner, carriers, data[point])
            for learner, carriers, point in zip(learners, run.carriers, points, strict=True)
        ]
        labels = cache.labels(plan.labels).float()

        def supervise(i: int, batch: dict, done: float) -> dict[str, torch.Tensor]:
            maps, unprompted, images = batch[points[i]]
            maps, unprompted = learned_from(plan, maps, unprompted)
            return learners[i].supervise(maps, unprompted, labels[images].to(maps.device), tasks[i], done)

        run_phase(
            run,
            config.supervised_steps,
            batches("maps", config.maps),
            supervise,
            lambda i: _validate(learners[i], data[points[i]], tasks[i]),
        )
        run.begin(FINISHED)
    finished = [
        finish(plan, order, learner, carriers, data[order.hookpoint], track)
        for order, learner, carriers, track in zip(orders, learners, run.carriers, run.tracks, strict=True)
    ]
    if distributed.rank() == 0:
        for made, learner in zip(finished, learners, strict=True):  # at once: a file that exists would not be resumed
            save_sae(made.out, learner.sae, made.header, made.statistics)
        run.checkpoints.remove()
    return finished


def _settings(plan: Plan, memory: int) -> dict:
    """All that the bytes of the SAEs depend on, by which checkpoints of the same training are told."""
    return {
        "config": asdict(plan.config),
        "orders": [[o.hookpoint, asdict(o.sae), str(o.out.resolve())] for o in plan.orders],
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
        sample = next(data.stream.vectors(100_000))
        return Learner(new_autoencoder(order.sae, sample, plan.config.seed).to(device), plan.config)
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
            estimate_threshold(learner.sae, data.stream.vectors(config.vectors))
        scores = latent_scores(latent_means(learner.sae, data.training))
    scores[:, ~free] = -torch.inf
    kept = plan.kept
    scores = scores[[label not in kept for label in plan.labels]]
    count = plan.latents_each(int(free.sum())) if plan.guided or plan.drawn else 1
    found = iter(carriers_of(scores, assign_latents(scores, config.assignment), count))
    return [kept.get(label) or next(found) for label in plan.labels]


def _task(plan: Plan, learner: Learner, carriers: list[list[int]], data: HookpointData) -> Task:
    shown = plan.cache.labels(plan.concepts)[data.stream.images]
    if plan.drawn:
        return DrawnTask(carriers, shown, learner.sae.W_enc.device)
    if learner.only is not None:
        learning = [carriers[plan.labels.index(label)] for label in plan.learning]
        learner.only[[latent for own in learning for latent in own]] = True
    concepts = plan.without_other_labels(data.training)
    groups = [group for group, _ in plan.concepts]
    return ConceptTask(carriers, groups, shown, similarity(learner.sae, concepts))


@torch.no_grad()
def _validate(learner: Learner, data: HookpointData, task: Task | None) -> dict[str, float]:
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
