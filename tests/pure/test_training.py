"""`sae-eraser train` on a cache with planted concepts: it finds them, and erasing them works."""

from pathlib import Path

import pytest
import torch

from pure.planted import CONCEPTS, HOOKPOINT, STEPS, plant, write_cache
from sae_eraser.sae_ops.edit import ConceptEdit, Erasure
from sae_eraser.sae_ops.file import load_sae, read_header
from sae_eraser.training.cli import main

FAST = ("--latents", "48", "--k", "2", "--unsupervised-steps", "200", "--supervised-steps", "200")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return write_cache(tmp_path_factory.mktemp("planted") / "cache", plant(range(25)))


@pytest.fixture(scope="module")
def trained(cache) -> Path:
    """The SAE file that the command line made of the cache."""
    out = cache.parent / "models" / "sae.safetensors"
    assert main(["train", str(cache), "--out", str(out), *FAST]) == 0
    return out


@pytest.fixture(scope="module")
def unseen():
    """Pictures of the same concepts that are not in the cache."""
    return plant(range(1000, 1010))


def test_every_concept_gets_a_latent_of_its_own(trained):
    concepts = read_header(trained).concepts
    assert [(concept.group, concept.name) for concept in concepts] == CONCEPTS
    latents = [latent for concept in concepts for latent in concept.latents]
    assert len(latents) == len(set(latents)) == len(CONCEPTS)


def test_the_file_says_where_the_sae_belongs_and_how_it_was_made(trained):
    header = read_header(trained)
    assert (header.hookpoint, header.model_family, header.hooked) == (HOOKPOINT, "SD15", "output")
    assert header.training["validation"]["fvu"] < 0.1
    assert header.training["supervised_steps"] == 200
    assert header.training["sampling"] == {"steps": STEPS}
    assert all(concept.facts["balanced_accuracy"] > 0.95 for concept in header.concepts)


def test_each_latent_tells_its_concept_in_unseen_pictures(trained, unseen):
    sae, header, _ = load_sae(trained)
    for concept, shows in zip(header.concepts, unseen.labels().T, strict=True):
        detected = sae.pre_acts(unseen.maps)[..., concept.latents[0]].mean(dim=2) > 0
        balanced = (detected[shows].float().mean() + (~detected[~shows]).float().mean()) / 2
        assert balanced > 0.95, concept.name


def test_erasing_a_concept_takes_its_direction_out_and_spares_pictures_without_it(trained, unseen):
    sae, header, statistics = load_sae(trained)
    maps = unseen.maps.flatten(0, 1).movedim(1, 2)[..., None]  # [pictures x steps, width, positions, 1]
    for index, (shows, direction) in enumerate(zip(unseen.labels().T, unseen.directions, strict=True)):
        edit = ConceptEdit(sae, header.concepts, statistics, (Erasure(index, mode="ablate"),))
        edited = edit(maps, unseen.sigmas.flatten(), torch.ones(len(maps), dtype=torch.bool))
        shows = shows.repeat_interleave(STEPS)
        before, after = ((m - 1).movedim(1, -1) @ direction for m in (maps, edited))
        planted = (before > 3) & shows[:, None, None]
        assert planted.any()
        assert (after[planted].mean() / before[planted].mean()).abs() < 0.5, header.concepts[index].name
        touched = (edited != maps).any(dim=1)[~shows]
        assert touched.float().mean() < 0.02, header.concepts[index].name


def test_statistics_tell_pictures_with_a_concept_from_those_without(trained, unseen):
    _, _, statistics = load_sae(trained)
    assert torch.equal(statistics.sigmas, unseen.sigmas[0].flip(0))
    assert (statistics.with_concept > 3 * statistics.background).all()
    assert (statistics.with_concept > statistics.overall).all()
    assert (statistics.overall > statistics.background).all()


def test_every_multiplier_pushes_the_concept_below_where_ablation_leaves_it(trained):
    assert all(-10 < concept.multiplier < 0.5 for concept in read_header(trained).concepts)


def test_the_same_seed_gives_the_same_bytes(cache, trained, tmp_path):
    main(["train", str(cache), "--out", str(tmp_path / "again.safetensors"), *FAST])
    assert (tmp_path / "again.safetensors").read_bytes() == trained.read_bytes()


@pytest.mark.parametrize("activation", ["topk", "relu"])
def test_every_activation_function_can_be_trained(cache, tmp_path, activation):
    out = tmp_path / "sae.safetensors"
    fast = ("--latents", "32", "--k", "2", "--unsupervised-steps", "5", "--supervised-steps", "5")
    assert main(["train", str(cache), "--out", str(out), "--activation", activation, *fast]) == 0
    sae, header, _ = load_sae(out)
    assert header.autoencoder.activation == activation
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(32))
