"""SAEmnesia's fine-tuning of an unsupervised SAE (arXiv 2509.21379), as published.

    MSE + 3 (BCE + 0.1 correlation) + 0.01 mean|pre_acts|

BCE is taken on the pre_acts of the assigned latents after their ReLU, averaged over positions, so that a picture
without the concept never costs less than log 2; the correlation is the mean squared Pearson one between latents of
objects and of styles. 20 % of the pictures validate; it stops after five epochs without an improvement.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from tqdm import tqdm

from sae_eraser.sae_ops.concepts import Concept
from sae_eraser.sae_ops.sae_file import save_sae
from sae_eraser.training.assign import assign_latents, latent_means, latent_scores
from sae_eraser.training.cache.reader import Cache
from sae_eraser.training.calibrate import concept_statistics, estimate_threshold
from sae_eraser.training.data import choose_images
from sae_eraser.training.distributed import device
from sae_eraser.training.losses import decorrelation_loss
from sae_eraser.training.sparse import reconstruct
from sae_eraser.training.stream import Stream

from .saes import GROUPS, HOOKPOINTS, LoadedSAE, Workplace, opened, unsupervised

LEARNING_RATE = 5e-5
"""Theirs is 5e-6 for 20 times as many latents."""
MAPS, EPOCH, PATIENCE = 128, 100, 5


def saemnesia(place: Workplace, group: str, seed: int) -> LoadedSAE:
    """The SAE of this group's hookpoint with one latent for every object and style, made if it is not there."""
    path = place.path("saemnesia", group, seed)
    if not path.exists():
        _finetune(place, group, seed)
    return opened(path)


def _finetune(place: Workplace, group: str, seed: int) -> None:
    base = unsupervised(place, group, seed)
    sae, cache = base.autoencoder.requires_grad_(True).to(device()), Cache(place.cache)
    concepts = [(kind, name) for kind, names in GROUPS.items() for name in names]
    validating = torch.arange(len(cache.images)) % 5 == 0
    images = choose_images(cache, HOOKPOINTS[group], ~validating, concepts, 4_000_000)
    latents = assign_latents(latent_scores(latent_means(sae, images)))
    labels = cache.labels(concepts).float().to(device())
    batches = Stream(cache, HOOKPOINTS[group], ~validating, buffer_bytes=2**30, seed=seed).maps(MAPS)
    held_maps, _, held = next(Stream(cache, HOOKPOINTS[group], validating, buffer_bytes=2**30, seed=seed).maps(1024))
    kinds = torch.tensor([list(GROUPS).index(kind) for kind, _ in concepts], device=device())
    unlike = torch.zeros(len(kinds), len(kinds), device=device())
    adam = torch.optim.Adam(sae.parameters(), lr=LEARNING_RATE, eps=6.25e-10)

    def loss(maps: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        x = sae.normalise(maps.to(device()))
        reconstruction, _ = reconstruct(sae, x.flatten(0, 1), torch.float32)
        pre_acts = F.linear(x - sae.b_dec, sae.W_enc, sae.b_enc).relu()
        logits = pre_acts[..., latents].mean(dim=1)
        told = F.binary_cross_entropy_with_logits(logits, labels[images.to(device())])
        correlation = decorrelation_loss(logits, kinds, unlike)
        mse = (reconstruction - x.flatten(0, 1)).square().mean()
        return mse + 3 * (told + 0.1 * correlation) + 0.01 * pre_acts.mean()

    best, best_loss, worse = sae.state_dict(), float("inf"), 0
    for _ in tqdm(range(place.lengths.epochs), desc="SAEmnesia"):
        for _ in range(EPOCH):
            adam.zero_grad()
            maps, _, shown = next(batches)
            loss(maps, shown).backward()
            adam.step()
            with torch.no_grad():
                sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
        with torch.no_grad():
            now = float(loss(held_maps, held))
        if now < best_loss:
            best, best_loss, worse = {name: value.clone() for name, value in sae.state_dict().items()}, now, 0
        else:
            worse += 1
        if worse == PATIENCE:
            break
    sae.load_state_dict(best)
    sae.cpu().requires_grad_(False)
    estimate_threshold(sae, Stream(cache, HOOKPOINTS[group], ~validating, buffer_bytes=2**30, seed=seed).vectors(2048))
    found = tuple(Concept(name, kind, (latent,)) for (kind, name), latent in zip(concepts, latents, strict=True))
    header = replace(base.header, concepts=found, training={"method": "SAEmnesia", "seed": seed})
    statistics = concept_statistics(latent_means(sae, images), images.levels()[0], [(latent,) for latent in latents])
    save_sae(place.path("saemnesia", group, seed), sae, header, statistics)
