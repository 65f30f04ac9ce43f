"""SAE files made of a cache with planted concepts: they find them, erasing works, one by one or several at once."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pure.planted import CONCEPTS, HOOKPOINT, STEPS, Planted, plant, write_cache
from pure.training_runs import train
from sae_eraser.sae_ops.concepts import detecting_terms
from sae_eraser.sae_ops.description import EXPLAINED, describe
from sae_eraser.sae_ops.edit import ConceptEdit, Erasure
from sae_eraser.sae_ops.sae_file import SAEHeader, load_sae, read_header
from sae_eraser.sae_ops.scores import concept_scores
from sae_eraser.training.cache.manifest import CacheSettings
from sae_eraser.training.cache.writer import CacheWriter
from sae_eraser.training.plan import CONCEPT_LATENTS

FAST = ("--latents", "48", "--k", "2", "--unsupervised-steps", "200", "--supervised-steps", "200")
QUICK = ("--latents", "32", "--k", "2", "--unsupervised-steps", "10", "--supervised-steps", "10", "--vectors", "256")
OTHER_POINT = "up_blocks.1.attentions.1"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return write_cache(tmp_path_factory.mktemp("planted") / "cache", plant(range(25)))


@pytest.fixture(scope="module")
def trained(cache) -> Path:
    out = cache.parent / "models" / "sae.safetensors"
    assert train(cache, out, *FAST) == 0
    return out


@pytest.fixture(scope="module")
def unseen() -> Planted:
    """Pictures of the same concepts that are not in the cache."""
    return plant(range(1000, 1010))


def accuracies(path: Path, pictures: Planted) -> dict[str, float]:
    """How well the sign of each concept's mean logit tells its pictures from the others."""
    sae, header, _ = load_sae(path)
    found = {}
    for concept in header.concepts:
        shows = pictures.labels()[:, CONCEPTS.index((concept.group, concept.name))]
        detected = sae.pre_acts(pictures.maps)[..., concept.latents[0]].mean(dim=2) > 0
        found[concept.name] = ((detected[shows].float().mean() + (~detected[~shows]).float().mean()) / 2).item()
    return found


def own_latents(header: SAEHeader) -> list[int]:
    """The first of every concept, which no other concept has."""
    latents = [concept.latents[0] for concept in header.concepts]
    assert len(latents) == len(set(latents))
    assert not set(latents) & {latent for concept in header.concepts for latent in concept.latents[1:]}
    return latents


def detecting_columns(header: SAEHeader) -> list[int]:
    return [terms[0] for terms in detecting_terms(header.concepts)]


def test_every_concept_gets_a_latent_of_its_own(trained):
    header = read_header(trained)
    assert [(concept.group, concept.name) for concept in header.concepts] == CONCEPTS
    own_latents(header)


def test_the_file_says_where_the_sae_belongs_and_how_it_was_made(trained):
    header = read_header(trained)
    assert (header.hookpoint, header.model_family, header.hooked) == (HOOKPOINT, "SD15", "output")
    assert header.training["validation"]["fvu"] < 0.1
    assert header.training["supervised_steps"] == 200
    assert header.training["sampling"] == {"steps": STEPS, "branch": "cond"}
    assert all(concept.facts["balanced_accuracy"] > 0.9 for concept in header.concepts)


def test_each_latent_tells_its_concept_in_unseen_pictures(trained, unseen):
    assert min(accuracies(trained, unseen).values()) > 0.95


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


@pytest.mark.parametrize("groups", [("object", "style"), ("object",)])
def test_with_both_halves_cached_erasing_takes_out_what_the_concepts_name_has_brought(tmp_path, unseen, groups):
    """And leaves what the other word has brought, whether that is a concept of the SAE or not."""
    cache, out = write_cache(tmp_path / "both", plant(range(25)), branch="both"), tmp_path / "sae.safetensors"
    assert train(cache, out, *FAST, "--groups", *groups) == 0
    sae, header, statistics = load_sae(out)
    assert {len(concept.latents) for concept in header.concepts} == {9}  # 48 latents for 5 labels
    assert all(0.8 < concept.facts["explained"] <= 1 for concept in header.concepts)
    assert "May erase little" not in describe(out, header)
    maps, unprompted = (m.flatten(0, 1).movedim(1, 2)[..., None] for m in (unseen.maps, unseen.unprompted))
    for index, concept in enumerate(header.concepts):
        edit = ConceptEdit(sae, header.concepts, statistics, (Erasure(index, mode="ablate"),))
        edited = edit(maps, unseen.sigmas.flatten(), torch.ones(len(maps), dtype=torch.bool))
        shows = unseen.labels()[:, CONCEPTS.index((concept.group, concept.name))].repeat_interleave(STEPS)
        coordinates = torch.linalg.pinv(unseen.directions)
        brought = [(m - unprompted)[shows].movedim(1, -1) @ coordinates for m in (maps, edited)]
        before, after = (each.flatten(0, 2).mean(dim=0) for each in brought)
        own = CONCEPTS.index((concept.group, concept.name))
        others = [other for other, (group, _) in enumerate(CONCEPTS) if group != concept.group and before[other] > 0.2]
        assert abs(after[own]) < 0.1 * before[own], concept.name
        assert len(others) >= 2
        torch.testing.assert_close(after[others], before[others], rtol=0.2, atol=0)


def test_concepts_that_have_not_learned_what_their_names_bring_are_named(tmp_path):
    cache, out = write_cache(tmp_path / "both", plant(range(25)), branch="both"), tmp_path / "sae.safetensors"
    few = (*QUICK, "--groups", "style", "--supervised-steps", "3")
    assert train(cache, out, *few) == 0
    header = read_header(out)
    assert all(concept.facts["explained"] < EXPLAINED for concept in header.concepts)
    assert "May erase little: wavy, grainy." in describe(out, header)
    assert train(cache, out, *few, "--guidance-weight", "0", "--overwrite") == 0
    assert "May erase little" not in describe(out, read_header(out))


def test_the_half_of_guidance_without_the_prompt_teaches_what_is_drawn(tmp_path, unseen):
    """Here that half alone has the concepts, as if no prompt had asked for them."""
    planted, out = plant(range(25)), tmp_path / "sae.safetensors"
    drawn = replace(planted, maps=planted.unprompted, unprompted=planted.maps)
    cache = write_cache(tmp_path / "both", drawn, branch="both")
    assert train(cache, out, *FAST, "--branch", "uncond") == 0
    sae, header, statistics = load_sae(out)
    assert header.branch == "uncond"
    latents = [latent for concept in header.concepts for latent in concept.latents]
    assert {len(concept.latents) for concept in header.concepts} == {8} and len(set(latents)) == 5 * 8
    z = sae.encode(unseen.maps)[..., latents].permute(1, 0, 3, 2)  # [steps, images, terms, positions]
    scores = concept_scores(z, unseen.sigmas[0], header.concepts, statistics)
    shown = unseen.labels()[:, [CONCEPTS.index((concept.group, concept.name)) for concept in header.concepts]]
    assert scores[shown].min() > 0.5 > scores[~shown].max()
    assert all(concept.facts["balanced_accuracy"] > 0.8 for concept in header.concepts)


def test_statistics_tell_pictures_with_a_concept_from_those_without(trained, unseen):
    _, header, statistics = load_sae(trained)
    assert torch.equal(statistics.sigmas, unseen.sigmas[0].flip(0))
    own = detecting_columns(header)
    assert (statistics.with_concept > 3 * statistics.background)[:, own].all()
    assert (statistics.with_concept > statistics.overall)[:, own].all()
    assert (statistics.overall > statistics.background)[:, own].all()


def test_concepts_are_detected_by_a_latent_of_their_own_and_have_others_besides(trained):
    header = read_header(trained)
    most = header.autoencoder.n_latents // len(header.concepts)
    assert most < CONCEPT_LATENTS
    for concept in header.concepts:
        assert concept.first_detects and concept.multiplier < 0
        assert 1 <= len(concept.latents) <= most and len(set(concept.latents)) == len(concept.latents)
    assert max(len(concept.latents) for concept in header.concepts) == most


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(cache, tmp_path):
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        assert train(cache, tmp_path / f"{name}.safetensors", *QUICK, "--seed", seed) == 0
    first, again, other = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("first", "again", "other"))
    assert first == again
    assert first != other


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_both_activation_functions_can_be_trained(cache, tmp_path, activation):
    out = tmp_path / "sae.safetensors"
    assert train(cache, out, *QUICK, "--activation", activation) == 0
    sae, header, _ = load_sae(out)
    assert header.autoencoder.activation == activation
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(32))
    assert (sae.threshold > 0) == (activation == "batchtopk")


def test_without_an_unsupervised_phase_the_concepts_are_learned_too(cache, unseen, tmp_path):
    out = tmp_path / "sae.safetensors"
    assert train(cache, out, *FAST, "--unsupervised-steps", 0, "--supervised-steps", 300) == 0
    own_latents(read_header(out))
    assert min(accuracies(out, unseen).values()) > 0.95
    assert read_header(out).training["validation"]["fvu"] < 0.1


def test_latents_can_be_assigned_optimally(cache, unseen, tmp_path):
    out = tmp_path / "sae.safetensors"
    assert train(cache, out, *FAST, "--assignment", "optimal") == 0
    own_latents(read_header(out))
    assert min(accuracies(out, unseen).values()) > 0.95


def test_chosen_groups_become_concepts_in_their_order(cache, tmp_path):
    out = tmp_path / "sae.safetensors"
    assert train(cache, out, *QUICK, "--groups", "style") == 0
    assert [concept.name for concept in read_header(out).concepts] == ["wavy", "grainy"]
    assert train(cache, out, *QUICK, "--overwrite", "--groups", "style", "object", "style") == 0
    assert [concept.group for concept in read_header(out).concepts] == ["style"] * 2 + ["object"] * 3


@pytest.fixture(scope="module")
def two_hookpoints(cache) -> Path:
    """Pictures at two places: the planted ones, and the same turned into another space of width 24."""
    planted = plant(range(15))
    turn = torch.randn(16, 24, generator=torch.Generator().manual_seed(1)) / 4
    settings = CacheSettings("SD15", {HOOKPOINT: 16, OTHER_POINT: 24}, "output", {}, planted.images)
    writer = CacheWriter(cache.parent / "two", settings)
    writer.write_shard(0, {HOOKPOINT: planted.maps, OTHER_POINT: planted.maps[:, :, ::2] @ turn}, planted.sigmas)
    return cache.parent / "two"


def test_several_saes_of_one_pass_are_those_trained_alone(two_hookpoints, tmp_path):
    rest = QUICK[4:]
    several = ("--hookpoint", HOOKPOINT, OTHER_POINT, "--latents", 32, 40, "--k", 2, 3)
    assert train(two_hookpoints, tmp_path / "all", *rest, *several) == 0
    made = sorted(path.name for path in (tmp_path / "all").glob("*.safetensors"))
    assert len(made) == 8
    for point, n, k in ((HOOKPOINT, 32, 2), (HOOKPOINT, 40, 3), (OTHER_POINT, 32, 3), (OTHER_POINT, 40, 2)):
        alone = tmp_path / f"{point}-n{n}-k{k}.safetensors"
        assert train(two_hookpoints, alone, *rest, "--hookpoint", point, "--latents", n, "--k", k) == 0
        assert alone.name in made
        assert (tmp_path / "all" / alone.name).read_bytes() == alone.read_bytes()
        assert (read_header(alone).hookpoint, read_header(alone).autoencoder.k) == (point, k)


@pytest.fixture(scope="module")
def base(cache) -> Path:
    """An SAE that knows the objects but no style."""
    out = cache.parent / "base.safetensors"
    assert train(cache, out, *FAST, "--groups", "object") == 0
    return out


@pytest.fixture(scope="module")
def extended(cache, base) -> Path:
    """The same, from a cache with other noise levels, knowing the styles too."""
    planted = plant(range(30, 55))
    planted.sigmas.mul_(torch.tensor([0.5, 1.0, 1.0]))
    write_cache(base.parent / "more", planted)
    out = base.parent / "extended.safetensors"
    assert train(base.parent / "more", out, "--extend", base, "--supervised-steps", "200") == 0
    return out


def test_an_extended_sae_recognises_the_new_concepts_and_the_old_ones(base, extended, unseen):
    header = read_header(extended)
    assert [concept.name for concept in header.concepts] == ["disc", "box", "star", "wavy", "grainy"]
    own_latents(header)
    found = accuracies(extended, unseen)
    assert min(found["wavy"], found["grainy"]) > 0.9
    assert {name: found[name] for name in ("disc", "box", "star")} == accuracies(base, unseen)


def test_extending_changes_no_bit_of_what_was_there(base, extended):
    (before, old, old_statistics), (after, new, statistics) = load_sae(base), load_sae(extended)
    assert new.concepts[:3] == old.concepts
    added = [concept.latents[0] for concept in new.concepts[3:]]
    others = [latent for latent in range(48) if latent not in added]
    for name in ("W_enc", "W_dec", "b_enc"):
        assert torch.equal(getattr(after, name)[others], getattr(before, name)[others]), name
        assert (getattr(after, name)[added] != getattr(before, name)[added]).any(), name
    for name in ("b_dec", "threshold", "input_shift", "input_scale"):
        assert torch.equal(getattr(after, name), getattr(before, name)), name
    assert statistics.sigmas.tolist() == [0.5, 2.0, 4.0, 8.0]
    at_old = [statistics.sigmas.tolist().index(sigma) for sigma in old_statistics.sigmas.tolist()]
    terms = sum(len(concept.latents) for concept in old.concepts)
    for name in ("with_concept", "background", "overall"):
        assert torch.equal(getattr(statistics, name)[at_old, :terms], getattr(old_statistics, name)), name
        assert getattr(statistics, name).shape == (4, sum(len(concept.latents) for concept in new.concepts))


def test_the_history_of_an_extended_sae_is_kept(base, extended):
    training = read_header(extended).training
    assert training["extended"] == read_header(base).training
    assert training["supervised_steps"] == 200


def test_new_concepts_of_an_extended_sae_fire_in_their_pictures(extended):
    _, header, statistics = load_sae(extended)
    own = detecting_columns(header)[3:]
    assert (statistics.with_concept > 2 * statistics.background)[:, own].all()


def test_a_new_concept_takes_no_latent_that_is_taken_even_if_it_is_the_best(base, tmp_path, capsys):
    """The same pictures under new names."""
    planted = plant(range(15))
    for image in planted.images:
        image.labels["form"] = [f"form of a {name}" for name in image.labels["object"]]
    cache, out = write_cache(tmp_path / "cache", planted), tmp_path / "sae.safetensors"
    assert train(cache, out, "--extend", base, "--groups", "form", "--supervised-steps", "10") == 0
    assert "reconstruct" not in capsys.readouterr().err, "an extension has no unsupervised phase"
    assert len(own_latents(read_header(out))) == 6


def test_without_a_supervised_phase_the_sae_is_the_unsupervised_one_with_concepts_on_its_best_latents(cache, tmp_path):
    steps = ("--unsupervised-steps", "60", "--supervised-steps")
    for name, supervised in (("plain", "0"), ("longer", "1")):
        assert train(cache, tmp_path / f"{name}.safetensors", "--latents", "48", "--k", "2", *steps, supervised) == 0
    plain, header, _ = load_sae(tmp_path / "plain.safetensors")
    longer, other, _ = load_sae(tmp_path / "longer.safetensors")
    assert [concept.latents[0] for concept in header.concepts] == [concept.latents[0] for concept in other.concepts]
    assert not torch.equal(plain.W_enc, longer.W_enc)
    torch.testing.assert_close(plain.W_dec, longer.W_dec, rtol=0, atol=0.01)
