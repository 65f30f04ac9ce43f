"""Adding concepts to SAEs of every activation function; what joins two files."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pure.planted import CONCEPTS, STEPS, plant, write_cache
from pure.training_runs import train
from sae_eraser.sae_ops.autoencoder import SparseAutoencoder
from sae_eraser.sae_ops.concepts import ConceptStatistics
from sae_eraser.sae_ops.edit import ConceptEdit
from sae_eraser.sae_ops.erasure import Erasure
from sae_eraser.sae_ops.sae_file import load_sae, save_sae
from sae_eraser.training.extend import joined
from sae_eraser.training.plan import GUIDED_TURN


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return write_cache(tmp_path_factory.mktemp("planted") / "cache", plant(range(20)))


@pytest.fixture(scope="module")
def trained(cache) -> Path:
    """An SAE that knows the objects."""
    size = ("--latents", "48", "--k", "2", "--unsupervised-steps", "200", "--supervised-steps", "100")
    assert train(cache, cache.parent / "trained.safetensors", *size, "--groups", "object") == 0
    return cache.parent / "trained.safetensors"


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "jumprelu", "relu"])
def test_an_sae_of_any_activation_learns_new_concepts_and_stays_what_it_was(cache, trained, tmp_path, activation):
    source, header, statistics = load_sae(trained)
    base = SparseAutoencoder(replace(source.config, activation=activation))
    weights = source.state_dict()
    base.load_state_dict(weights | {"threshold": weights["threshold"].expand(base.threshold.shape)})
    save_sae(tmp_path / "base.safetensors", base, replace(header, autoencoder=base.config), statistics)
    more = ("--extend", tmp_path / "base.safetensors", "--supervised-steps", "200")
    assert train(cache, tmp_path / "more.safetensors", *more) == 0
    after, extended, _ = load_sae(tmp_path / "more.safetensors")
    assert extended.autoencoder == base.config
    assert extended.concepts[:3] == header.concepts
    added = [concept.latents[0] for concept in extended.concepts[3:]]
    others = [latent for latent in range(48) if latent not in added]
    assert torch.equal(after.W_enc[others], base.W_enc[others]) and torch.equal(after.threshold, base.threshold)
    assert (after.W_enc[added] != base.W_enc[added]).any(dim=1).all()
    found = {concept.name: concept.facts["balanced_accuracy"] for concept in extended.concepts[3:]}
    assert set(found) == {"wavy", "grainy"} and min(found.values()) > 0.8, found


def test_with_both_halves_cached_new_concepts_learn_what_their_names_bring(tmp_path):
    """The object's latents, which have learned it before, explain their part; only those of the styles learn."""
    both = write_cache(tmp_path / "both", plant(range(20)), branch="both")
    size = ("--latents", "48", "--k", "2", "--unsupervised-steps", "200", "--supervised-steps", "100")
    base, more = tmp_path / "base.safetensors", tmp_path / "more.safetensors"
    assert train(both, base, *size, "--groups", "object", "--concept-latents", "6") == 0
    assert train(both, more, "--extend", base, "--supervised-steps", "200") == 0
    (before, old, _), (sae, header, statistics) = load_sae(base), load_sae(more)
    assert header.concepts[:3] == old.concepts
    kept = [latent for concept in old.concepts for latent in concept.latents]
    added = [latent for concept in header.concepts[3:] for latent in concept.latents]
    assert len(set(added)) == 2 * 15 and not set(added) & set(kept)  # 30 latents are free
    assert torch.equal(sae.W_enc[kept], before.W_enc[kept]) and torch.equal(sae.W_dec[kept], before.W_dec[kept])
    assert {concept.turn for concept in header.concepts} == {GUIDED_TURN}
    unseen = plant(range(900, 920))
    maps, unprompted = (m.flatten(0, 1).movedim(1, 2)[..., None] for m in (unseen.maps, unseen.unprompted))
    coordinates = torch.linalg.pinv(unseen.directions)
    for index, concept in list(enumerate(header.concepts))[3:]:
        edit = ConceptEdit(sae, header.concepts, statistics, (Erasure(index, mode="ablate"),))
        edited = edit(maps, unseen.sigmas.flatten(), torch.ones(len(maps), dtype=torch.bool))
        own = CONCEPTS.index((concept.group, concept.name))
        shows = unseen.labels()[:, own].repeat_interleave(STEPS)
        brought = [(m - unprompted)[shows].movedim(1, -1) @ coordinates for m in (maps, edited)]
        gone, left = (each.flatten(0, 2).mean(dim=0) for each in brought)
        assert abs(left[own]) < 0.2 * gone[own], concept.name
        torch.testing.assert_close(left[:3], gone[:3], rtol=0.25, atol=0)


def test_an_sae_made_with_the_guidance_loss_is_not_extended_without_it(tmp_path, capsys):
    both = write_cache(tmp_path / "both", plant(range(20)), branch="both")
    half = write_cache(tmp_path / "half", plant(range(20)), branch="cond")
    size = ("--latents", "48", "--k", "2", "--unsupervised-steps", "20", "--supervised-steps", "10")
    base, more = tmp_path / "base.safetensors", tmp_path / "more.safetensors"
    assert train(both, base, *size, "--groups", "object") == 0
    extend = ("--extend", base, "--supervised-steps", "10")
    assert train(half, more, *extend) != 0
    said = capsys.readouterr().err
    assert str(half) in said and "Collect again with the branch both" in said and not more.exists()
    assert train(half, more, *extend, "--guidance-weight", "0") == 0


def test_concepts_of_the_base_that_no_prompt_names_leave_the_new_ones_all_free_latents(tmp_path):
    both = write_cache(tmp_path / "both", plant(range(20)), branch="both")
    size = ("--latents", "48", "--k", "2", "--unsupervised-steps", "20", "--supervised-steps", "10")
    base, more = tmp_path / "base.safetensors", tmp_path / "more.safetensors"
    assert train(both, base, *size, "--groups", "object", "--concept-latents", "6") == 0
    planted = plant(range(20))
    labelled = [replace(image, labels={"style": image.labels["style"]}) for image in planted.images]
    styles = write_cache(tmp_path / "styles", replace(planted, images=labelled), branch="both")
    assert train(styles, more, "--extend", base, "--supervised-steps", "10") == 0
    _, header, _ = load_sae(more)
    assert [len(concept.latents) for concept in header.concepts] == [6, 6, 6, 15, 15]


def test_joined_statistics_keep_both_at_their_own_noise_levels_and_interpolate_between():
    def table(*rows):
        return torch.tensor(rows)

    first = ConceptStatistics(table(1.0, 100.0), *(table([1.0 + i], [3.0 + i]) for i in range(3)))
    second = ConceptStatistics(table(0.1, 10.0), *(table([5.0 + i, 7.0], [6.0 + i, 9.0]) for i in range(3)))
    both = joined(first, second)
    torch.testing.assert_close(both.sigmas, table(0.1, 1.0, 10.0, 100.0))
    torch.testing.assert_close(
        both.with_concept, table([1.0, 5.0, 7.0], [1.0, 5.5, 8.0], [2.0, 6.0, 9.0], [3.0, 6.0, 9.0])
    )
    torch.testing.assert_close(both.overall[:, 0], table(3.0, 3.0, 4.0, 5.0))
    assert torch.equal(both.background[[1, 3], 0], first.background[:, 0])
    assert torch.equal(both.background[[0, 2], 1:], second.background)
    assert both.detection is None and both.positions is None


def test_of_joined_statistics_those_that_spare_look_alikes_go_on_to_do_so():
    def made(*positions):
        own = ConceptStatistics(torch.ones(1), *(torch.full((1, 2), float(i)) for i in range(3)))
        return replace(own, detection=own.overall, positions=torch.tensor(positions[0])) if positions else own

    for first, second, detection, positions in (
        (made(64), made(), [2, 2, 0, 0], 64),
        (made(), made(64), [0, 0, 2, 2], 64),
        (made(64), made(16), [2, 2, 2, 2], 64),
        (made(16), made(64), [2, 2, 8, 8], 16),
    ):
        both = joined(first, second)
        assert both.detection.tolist() == [detection] and both.positions == positions
