"""Steps of training: a new autoencoder, what a step changes, dead latents, and going on from a saved state."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F

from pure.planted import CONCEPTS, plant
from pure.random_sae import random_sae
from sae_eraser.sae_ops.autoencoder import SAEConfig
from sae_eraser.training.config import TrainingConfig
from sae_eraser.training.learner import Learner, new_autoencoder
from sae_eraser.training.sparse import reconstruct as reconstruct_sparsely
from sae_eraser.training.tasks import ConceptTask, DrawnTask, logits_and_firing

PLANTED = plant(range(10))
MAPS = PLANTED.maps.flatten(0, 1)
LABELS = PLANTED.labels().repeat_interleave(PLANTED.maps.shape[1], dim=0).float()
VECTORS = MAPS.flatten(0, 1)
CONFIG = TrainingConfig(precision="fp32")


def learner(config: TrainingConfig = CONFIG, only: torch.Tensor | None = None, n: int = 32, k: int = 2) -> Learner:
    return Learner(new_autoencoder(SAEConfig(16, n, "batchtopk", k), VECTORS, seed=0), config, only)


def task(latents: list[int]) -> ConceptTask:
    return ConceptTask(
        [[latent] for latent in latents], [group for group, _ in CONCEPTS], PLANTED.labels(), torch.zeros(5, 5)
    )


def batch(step: int, size: int = 512) -> torch.Tensor:
    return VECTORS[torch.randperm(len(VECTORS), generator=torch.Generator().manual_seed(step))[:size]]


def reconstruct(learner: Learner, steps: range, of: int) -> list[dict]:
    return [learner.reconstruct(batch(step), step / of) for step in steps]


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.sae.state_dict().items()}


def test_a_new_autoencoder_centres_and_scales_its_input():
    sae = new_autoencoder(SAEConfig(16, 32, "topk", 2), VECTORS, seed=0)
    normalised = sae.normalise(VECTORS)
    assert normalised.mean(dim=0).abs().max() < 1e-5
    assert normalised.square().mean().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(32))


def test_a_new_encoder_points_along_the_decoder_and_has_the_length_that_reconstructs_best():
    sae = new_autoencoder(SAEConfig(16, 32, "topk", 2), VECTORS, seed=0).requires_grad_(False)
    length = sae.W_enc.norm(dim=1, keepdim=True)
    torch.testing.assert_close(sae.W_enc, length * sae.W_dec)
    torch.testing.assert_close(length, length[:1].expand_as(length))
    errors = []
    for factor in (0.9, 1.0, 1.1):
        sae.W_enc.copy_(factor * length * sae.W_dec)
        errors.append((sae(VECTORS[:4096]) - VECTORS[:4096]).square().sum())
    assert errors[1] < min(errors[0], errors[2])


def test_another_seed_gives_another_autoencoder():
    first, second, again = (new_autoencoder(SAEConfig(16, 32, "topk", 2), VECTORS, seed) for seed in (0, 1, 0))
    assert torch.equal(first.W_dec, again.W_dec)
    assert not torch.isclose(first.W_dec, second.W_dec).any(dim=1).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_reconstructing_explains_more_and_keeps_decoder_rows_at_unit_norm(precision):
    trained = learner(TrainingConfig(precision=precision))
    numbers = reconstruct(trained, range(40), of=40)
    assert numbers[-1]["fvu"] < 0.5 * numbers[0]["fvu"]
    assert numbers[-1]["l0"] == 2
    torch.testing.assert_close(trained.sae.W_dec.norm(dim=1), torch.ones(32))


def test_decoder_rows_are_turned_and_not_pulled_along_themselves():
    trained = learner()
    reconstruct(trained, range(3), of=40)
    rows = trained.sae.W_dec.detach().clone()
    reconstruct(trained, range(3, 4), of=40)
    gradient = trained.sae.W_dec.grad
    assert gradient.norm() > 0
    assert (gradient * rows).sum(dim=1).norm() < 1e-5 * gradient.norm()


def test_the_product_is_in_bf16_only_where_the_machine_is_fast_at_it(monkeypatch):
    for fast, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("sae_eraser.training.config.is_fast_at_bf16", lambda device, fast=fast: fast)
        assert learner(TrainingConfig()).dtype == dtype
        assert learner(TrainingConfig(precision="bf16")).dtype == torch.bfloat16


def test_supervising_makes_the_latents_tell_their_concepts():
    trained = learner()
    numbers = [trained.supervise(MAPS, None, LABELS, task([3, 1, 4, 15, 9]), step / 60) for step in range(60)]
    assert numbers[-1]["accuracy"] > 0.95 > numbers[0]["accuracy"]
    assert numbers[-1]["fvu"] < numbers[0]["fvu"]
    torch.testing.assert_close(trained.sae.W_dec.norm(dim=1), torch.ones(32))


def test_an_accuracy_while_training_weighs_maps_with_a_concept_and_without_it_the_same():
    """As it is measured on images held out: a latent that never tells its concept is right half of the time."""
    silent = learner()
    with torch.no_grad():
        silent.sae.b_enc -= 1e3
    told = silent.supervise(MAPS, None, LABELS, task([3, 1, 4, 15, 9]), 0)
    assert told["accuracy"].item() == pytest.approx(0.5)
    shown = LABELS[:1].expand(len(LABELS), -1)  # nothing to tell apart
    assert silent.supervise(MAPS, None, shown, task([3, 1, 4, 15, 9]), 0)["accuracy"].isnan()


def test_the_silence_loss_keeps_latents_from_firing_where_their_concept_is_not_shown():
    latents, firings = [3, 1, 4, 15, 9], []
    for weight in (0, 1):
        trained = learner(TrainingConfig(precision="fp32", silence_weight=weight))
        for step in range(60):
            trained.supervise(MAPS, None, LABELS, task(latents), step / 60)
        _, firing = logits_and_firing(trained.sae, trained.sae.normalise(MAPS), torch.tensor(latents))
        firings.append((firing * (1 - LABELS)).sum() / (firing * LABELS).sum())
    assert firings[1] < 0.5 * firings[0]


def test_the_learning_rate_falls_to_zero_over_the_last_fifth():
    """So that the weights come to rest: the last of 50 steps moves them by a tenth of a full step."""
    trained, supervised = learner(), task([0, 1, 2, 3, 4])
    for step in (
        lambda i: trained.reconstruct(batch(i), i / 50),
        lambda i: trained.supervise(MAPS, None, LABELS, supervised, i / 50),
    ):
        trained.restart()
        states = [trained.sae.W_enc.detach().clone()]
        for i in range(50):
            step(i)
            states.append(trained.sae.W_enc.detach().clone())
        moved = [(after - before).norm() for before, after in itertools.pairwise(states)]
        assert 0 < moved[-1] < 0.3 * moved[39]


def test_only_the_chosen_rows_are_trained():
    chosen = torch.zeros(32, dtype=torch.bool)
    chosen[[4, 7]] = True
    trained = learner(only=chosen)
    with torch.no_grad():
        trained.sae.W_dec.mul_(1.001)  # rows of a file that were never quite of unit norm stay so
    before = weights(trained)
    for step in range(5):
        task = ConceptTask([[4], [7]], ["a", "a"], LABELS[:, :2], torch.eye(2))
        trained.supervise(MAPS, None, LABELS[:, :2], task, step / 5)
    after = weights(trained)
    for name in ("W_enc", "W_dec", "b_enc"):
        assert torch.equal(after[name][~chosen], before[name][~chosen])
        assert not torch.isclose(after[name][chosen], before[name][chosen]).all()
    assert torch.equal(after["b_dec"], before["b_dec"])


def test_a_pruned_row_stays_what_it_is_until_it_learns():
    """Latent 7 is all zero, and so is 4, which never fires."""
    chosen = torch.zeros(32, dtype=torch.bool)
    chosen[[4, 7]] = True
    trained = learner(only=chosen)
    with torch.no_grad():
        trained.sae.W_enc[[4, 7]], trained.sae.W_dec[[4, 7]], trained.sae.b_enc[4] = 0.0, 0.0, -1000.0
    unprompted = PLANTED.unprompted.flatten(0, 1)
    for step in range(20):
        task = ConceptTask([[7], [4]], ["a", "a"], LABELS[:, :2], torch.eye(2))
        trained.supervise(MAPS, unprompted, LABELS[:, :2], task, step / 20)
    assert all(tensor.isfinite().all() for tensor in weights(trained).values())
    assert not trained.sae.W_dec[4].any()
    assert trained.sae.W_dec[7].norm().item() == pytest.approx(1)


def test_latents_learn_what_the_words_have_brought():
    """Of two words a picture only the first is a concept; what the second brings, its own latents learn."""
    carriers = [[3, 20], [1, 21], [4, 22], [15, 23], [9, 24]]
    groups = ["object", "object", "object"]
    guided = ConceptTask(carriers, groups, PLANTED.labels()[:, :3], torch.zeros(3, 3))
    unprompted, trained = PLANTED.unprompted.flatten(0, 1), learner()
    left = [trained.supervise(MAPS, unprompted, LABELS, guided, step / 200)["guidance"] for step in range(200)]
    assert left[0] > 0.8
    assert left[-1] < 0.1
    sae, discs = trained.sae, LABELS[:, 0] > 0
    with torch.no_grad():
        z = sae.pre_acts(MAPS)[..., carriers[0]].relu()
        without_disc = MAPS - z @ sae.W_dec[carriers[0]] / sae.input_scale
    coordinates = torch.linalg.pinv(PLANTED.directions)
    before, after = (((m - unprompted)[discs] @ coordinates).mean(dim=(0, 1)) for m in (MAPS, without_disc))
    assert abs(after[0]) < 0.1 * before[0]
    torch.testing.assert_close(after[3:], before[3:], rtol=0.1, atol=0)


def with_a_silent_latent(auxiliary_weight: float) -> Learner:
    """Latent 0 of four never fires; the other three are too few for the five planted concepts."""
    silent = learner(TrainingConfig(precision="fp32", dead_after=1000, auxiliary_weight=auxiliary_weight), n=4, k=1)
    with torch.no_grad():
        silent.sae.W_enc[0].copy_(0.01 * silent.sae.W_enc[0])
    return silent


def test_the_auxiliary_loss_brings_a_dead_latent_back_to_life():
    trained = with_a_silent_latent(auxiliary_weight=1 / 32)
    reconstruct(trained, range(3), of=300)
    assert trained.dead.tolist() == [True, False, False, False]
    reconstruct(trained, range(3, 300), of=300)
    assert not trained.dead.any()


def test_a_dead_latent_learns_what_the_others_leave_over():
    """As a share of that, from every fourth vector; of the d/2 = 8 that the loss could use one is dead."""
    trained = with_a_silent_latent(auxiliary_weight=1 / 32)
    reconstruct(trained, range(3), of=300)
    sae = copy.deepcopy(trained.sae)
    x = sae.normalise(batch(3))
    reconstruction, _ = reconstruct_sparsely(sae, x, torch.float32)
    left = (x - reconstruction).detach()[::4]
    explained = (sae.pre_acts(batch(3))[::4, :1].relu()) @ sae.W_dec[:1]
    (1 / 32 * 1 / 8 * (left - explained).square().sum() / left.square().sum()).backward()
    reconstruct(trained, range(3, 4), of=300)
    assert sae.b_enc.grad[0] != 0
    torch.testing.assert_close(trained.sae.b_enc.grad[0], sae.b_enc.grad[0])


def test_without_the_auxiliary_loss_a_dead_latent_stays_dead():
    trained = with_a_silent_latent(auxiliary_weight=0)
    before = trained.sae.W_enc[0].detach().clone()
    reconstruct(trained, range(300), of=300)
    assert trained.dead.tolist() == [True, False, False, False]
    assert torch.equal(trained.sae.W_enc[0], before)


def test_a_latent_is_dead_when_it_was_silent_for_more_than_so_many_vectors():
    trained = with_a_silent_latent(auxiliary_weight=0)
    numbers = reconstruct(trained, range(2), of=300)
    assert trained.silent[0] == 1024
    assert [int(n["dead"]) for n in numbers] == [0, 1]
    with torch.no_grad():
        trained.sae.b_enc[0] = 10.0
    reconstruct(trained, range(1), of=300)
    assert trained.silent[0] == 0
    assert not trained.dead[0]


def test_a_saved_state_goes_on_to_the_same_bits():
    straight, stopped, resumed = learner(), learner(), learner()
    reconstruct(straight, range(10), of=10)
    reconstruct(stopped, range(6), of=10)
    resumed.load_state(stopped.state())
    reconstruct(resumed, range(6, 10), of=10)
    for name, tensor in weights(straight).items():
        assert torch.equal(weights(resumed)[name], tensor), name
    assert torch.equal(resumed.silent, straight.silent)


def test_logits_and_firing_are_means_over_positions_of_pre_acts_and_of_their_positive_part():
    sae = random_sae("topk", d=16)
    logits, firing = logits_and_firing(sae, sae.normalise(MAPS), torch.tensor([5, 0]))
    pre_acts = sae.pre_acts(MAPS)[..., [5, 0]]
    torch.testing.assert_close(logits, pre_acts.mean(dim=1))
    torch.testing.assert_close(firing, pre_acts.relu().mean(dim=1))


def test_what_is_drawn_is_told_by_the_activations_of_all_latents_of_a_concept():
    sae = random_sae("batchtopk", d=16)
    sae.threshold.fill_(0.4)
    task = DrawnTask([[5, 0], [2, 9]], torch.ones(2, 2, dtype=torch.bool), torch.device("cpu"))
    (there,) = task.read(sae, sae.normalise(MAPS))
    z = sae.encode(MAPS)
    assert (sae.pre_acts(MAPS)[..., [5, 0]].relu() != z[..., [5, 0]]).any(), "the threshold must matter here"
    expected = torch.stack([z[..., own].sum(dim=2).mean(dim=1) for own in ([5, 0], [2, 9])], dim=1) - 0.5
    torch.testing.assert_close(there, expected)


PLAIN = TrainingConfig(decorrelation_weight=0, silence_weight=0)


def test_rare_concepts_weigh_more_where_they_are_shown():
    """sqrt(negatives / positives), at most sqrt(20): a concept in 1 of 5 images weighs 2, one in 1 of 100 sqrt 20."""
    labels = torch.zeros(100, 2, dtype=torch.bool)
    labels[:20, 0] = labels[0, 1] = True
    nothing, shown = torch.zeros(2, 1), torch.ones(2, 1)
    for column, weight in enumerate((2, 20**0.5)):
        task = ConceptTask([[0]], ["object"], labels[:, [column]], torch.eye(1))
        loss = task.loss(nothing, nothing, labels=shown, config=PLAIN)
        torch.testing.assert_close(loss, weight * F.softplus(torch.tensor(0.0)))


def test_the_parts_of_the_concept_loss_are_weighted_as_configured():
    """Logits with correlation 1; latents that fire 0.2 and 0.4 on average where they should not."""
    logits = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    firing = torch.tensor([[0.1, 0.4], [0.2, 0.4], [0.3, 0.4]])
    labels, images = torch.zeros(3, 2), torch.tensor([[True, False], [False, True]])
    weighed = TrainingConfig(decorrelation_weight=0.5, silence_weight=0)
    silent = TrainingConfig(decorrelation_weight=0, silence_weight=2)

    def added(config: TrainingConfig, groups: list[str], similarity: torch.Tensor) -> float:
        task = ConceptTask([[0], [1]], groups, images, similarity)
        with_parts, without = (task.loss(logits, firing, labels=labels, config=c) for c in (config, PLAIN))
        return (with_parts - without).item()

    assert added(weighed, ["object", "style"], torch.zeros(2, 2)) == pytest.approx(0.5)
    assert added(weighed, ["object", "object"], torch.ones(2, 2)) == pytest.approx(0.5)
    assert added(weighed, ["object", "object"], torch.zeros(2, 2)) == pytest.approx(0)
    assert added(silent, ["object", "object"], torch.ones(2, 2)) == pytest.approx(2 * 0.3)
