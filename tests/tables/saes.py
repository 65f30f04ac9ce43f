"""The SAEs that are compared, all from one base: unsupervised, fine-tuned as SAEmnesia, and fine-tuned as ours."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sae_eraser.nodes.files.sae_files import LoadedSAE
from sae_eraser.sae_ops.concepts import term_ranges
from sae_eraser.sae_ops.sae_file import load_sae
from sae_eraser.training import cli
from sae_eraser.training.assign import LatentMeans, latent_means
from sae_eraser.training.cache.reader import Cache
from sae_eraser.training.concept_tables import Settings, select_concepts
from sae_eraser.training.data import LabelledImages, choose_images
from sae_eraser.training.distributed import device
from sae_eraser.training.held_out import held_out
from shapecanvas.concepts import OBJECTS, STYLES
from shapecanvas.worlds import ALIKE

GROUPS = {"object": OBJECTS, "style": STYLES}
HOOKPOINTS = {"object": "mid_block.attentions.0", "style": "up_blocks.0.attentions.1"}
DRAWN_HOOKPOINT = "up_blocks.0.attentions.0"
"""Where Concept Guard sees what is drawn."""
LATENTS, K = 1024, 16
SPARING = ("--spare-look-alikes", "--concept-weight", "1.0")


@dataclass(frozen=True)
class Lengths:
    """How long SAEs are trained."""

    unsupervised: int
    """Steps of all SAEs."""
    supervised: int
    """Further steps of ours; that of Concept Guard takes twice as many, and ours where objects are more alike."""
    epochs: int
    """Of SAEmnesia's fine-tuning, at most."""


@dataclass(frozen=True)
class Workplace:
    """Where the activations are and where SAEs go."""

    cache: Path
    """Of the prompted half of guidance, as the papers have it."""
    both_halves: Path
    """The same pictures with both."""
    folder: Path
    lengths: Lengths

    def path(self, kind: str, group: str, seed: int) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{kind}_{group}_{seed}.safetensors"

    def images(self, group: str) -> LabelledImages:
        """Those trained on, labelled with the concepts of the group."""
        cache = Cache(self.cache)
        concepts = [(group, name) for name in GROUPS[group]]
        return choose_images(cache, HOOKPOINTS[group], ~held_out(cache), concepts, 4_000_000)


def opened(path: Path) -> LoadedSAE:
    return LoadedSAE(path.stem, *load_sae(path))


def trained(
    place: Workplace, cache: Path, kind: str, group: str, seed: int, *options: str, hookpoint: str | None = None
) -> LoadedSAE:
    """An SAE by `sae-eraser train` with these options, made if it is not there."""
    path = place.path(kind, group, seed)
    if not path.exists():
        command = ["train", str(cache), "--out", str(path), "--groups", group]
        command += ["--hookpoint", hookpoint or HOOKPOINTS[group]]
        command += ["--latents", str(LATENTS), "--k", str(K), "--seed", str(seed)]
        command += ["--unsupervised-steps", str(place.lengths.unsupervised), *options]
        if cli.main(command):
            raise SystemExit(f"Could not train {path}.")
    return opened(path)


def unsupervised(place: Workplace, group: str, seed: int) -> LoadedSAE:
    """SAeUron's: nothing but reconstruction."""
    return trained(place, place.cache, "unsupervised", group, seed, "--supervised-steps", "0")


def supervised(place: Workplace, group: str, seed: int) -> LoadedSAE:
    """Ours; of styles without the guidance loss, as `train` advises where that explains too little.

    Where objects are more alike it is trained like that of Concept Guard, or some are erased too rarely, and spares
    look-alikes.
    """
    options = [*_hard(place.lengths), *SPARING] if ALIKE else ["--supervised-steps", str(place.lengths.supervised)]
    options += ["--guidance-weight", "0"] if group == "style" else []
    return trained(place, place.both_halves, "supervised", group, seed, *options)


def drawn(place: Workplace, group: str, seed: int) -> LoadedSAE:
    """That of Concept Guard."""
    options = ("--branch", "uncond", *_hard(place.lengths))
    return trained(place, place.both_halves, "drawn", group, seed, *options, hookpoint=DRAWN_HOOKPOINT)


def _hard(lengths: Lengths) -> list[str]:
    """How long and how fast where concepts are hard to tell apart."""
    return ["--supervised-steps", str(2 * lengths.supervised), "--learning-rate", "2e-3"]


def means_of_all_latents(place: Workplace, sae: LoadedSAE, group: str) -> tuple[LatentMeans, torch.Tensor]:
    """SAeUron's table of how strongly every latent fires with each concept, and its noise levels."""
    path = place.folder / f"{sae.name}.means.safetensors"
    images = place.images(group)
    if not path.exists():
        save_file(vars(latent_means(copy.deepcopy(sae.autoencoder).to(device()), images)), path)
    return LatentMeans(**load_file(path)), images.levels()[0]


def saeuron(place: Workplace, sae: LoadedSAE, group: str, latents: dict[str, int]) -> LoadedSAE:
    """The SAE with SAeUron's choice of concepts: at every noise level so many of the best by score, 1 if not named.

    The percentile that keeps so many of n latents, as 99.999 keeps one of 20,480.
    """
    means, sigmas = means_of_all_latents(place, sae, group)
    settings = {name: Settings(100 * (LATENTS - latents.get(name, 1) - 0.5) / (LATENTS - 1)) for name in GROUPS[group]}
    concepts, statistics = select_concepts(means, sigmas, group, settings)
    return replace(sae, header=replace(sae.header, concepts=concepts), statistics=statistics)


def scaled(sae: LoadedSAE, multipliers: dict[str, float]) -> LoadedSAE:
    """The SAE with gammas of these concepts such that gamma * mu is the number given, averaged over levels and latents.

    How large mu is depends on the model, so the papers' own gammas mean nothing in another one.
    """
    concepts = []
    for concept, terms in zip(sae.header.concepts, term_ranges(sae.header.concepts), strict=True):
        own = sae.statistics.with_concept[:, list(terms)]
        typical = float(own[own > 0].mean())
        concepts.append(replace(concept, multiplier=multipliers.get(concept.name, -1.0) / typical))
    return replace(sae, header=replace(sae.header, concepts=tuple(concepts)))
