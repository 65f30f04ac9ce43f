"""From a cache to an SAE file: both training phases, assignment, calibration, writing."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ..sae_ops.autoencoder import SAEConfig
from ..sae_ops.concepts import Concept
from ..sae_ops.file import SAEHeader, save_sae
from .assign import assign_latents, concept_scores, latent_means
from .cache import Cache, CacheError
from .calibrate import calibrated_multipliers, concept_statistics, estimate_threshold, measure
from .data import load_maps
from .trainer import TrainingConfig, new_autoencoder, train_supervised, train_unsupervised

Progress = Callable[[str, int, dict[str, float]], None]
"""Called after every step with the phase's name, its number of steps and the numbers to show."""


def build_sae(
    cache: Cache,
    hookpoint: str,
    out: Path,
    *,
    groups: list[str] | None,
    n_latents: int,
    k: int,
    activation: str,
    config: TrainingConfig,
    progress: Progress,
) -> SAEHeader:
    """Trains an SAE with one latent for every label of these groups (None: of all) and writes it to `out`.

    Raises CacheError if the cache has no such labels, or if a concept is in all or none of the pictures.
    """
    labels = cache.groups()
    if not labels:
        raise CacheError(
            f"{cache.folder} has no labels, so there is no concept to find. Collect with labelled prompts."
        )
    for group in groups or ():
        if group not in labels:
            raise CacheError(f"{cache.folder} has no labels of a group '{group}'. It has: {', '.join(labels)}.")
    concepts = [(group, name) for group in groups or labels for name in labels[group]]
    training, validation = load_maps(cache, hookpoint, concepts)
    for column, (group, name) in enumerate(concepts):
        for part, data in (("training", training), ("validation", validation)):
            if not 0 < data.labels[:, column].sum() < len(data.labels):
                raise CacheError(
                    f"'{name}' ({group}) is in all or none of the {len(data.labels)} {part} images. Collect pictures "
                    "with and without it, and more seeds."
                )
    sae_config = SAEConfig(training.maps.shape[-1], n_latents, activation, k)
    if n_latents < len(concepts):
        raise ValueError(f"{len(concepts)} concepts need as many latents, not {n_latents}. Choose a larger number.")
    sae = new_autoencoder(sae_config, training, config.seed)
    train_unsupervised(
        sae, training, config, lambda numbers: progress("reconstruct", config.unsupervised_steps, numbers)
    )
    estimate_threshold(sae, training, config.seed)
    latents = assign_latents(concept_scores(latent_means(sae, training), training.labels))
    kinds = [group for group, _ in concepts]
    train_supervised(
        sae, latents, kinds, training, config, lambda numbers: progress("supervise", config.supervised_steps, numbers)
    )
    estimate_threshold(sae, training, config.seed)
    statistics = concept_statistics(sae, latents, training)
    multipliers = calibrated_multipliers(sae, latents, training, statistics)
    measured = measure(sae, latents, validation)
    accuracies = measured.pop("balanced_accuracy")
    header = SAEHeader(
        hookpoint=hookpoint,
        model_family=cache.settings.model_family,
        autoencoder=sae_config,
        hooked=cache.settings.hooked,
        concepts=tuple(
            Concept(name, group, (latent,), multiplier, {"balanced_accuracy": round(accuracy, 4)})
            for (group, name), latent, multiplier, accuracy in zip(
                concepts, latents, multipliers, accuracies, strict=True
            )
        ),
        training={
            **asdict(config),
            "sampling": cache.settings.sampling,
            "images": len(cache.settings.images),
            "validation": {name: round(value, 4) for name, value in measured.items()},
        },
    )
    save_sae(out, sae, header, statistics)
    return header
