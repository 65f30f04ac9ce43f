"""The numbers of an evaluation against values worked out by hand, and the Fréchet distance against closed forms."""

import pytest
import torch

from sae_eraser.training.evaluation.judging import Judgement
from sae_eraser.training.evaluation.pictures import Sampling, Setting
from sae_eraser.training.evaluation.results import ErasureResult, best, means, measure_erasure, measure_originals
from sae_eraser.training.evaluation.scores import (
    broken_share,
    erasure_scores,
    frechet_distance,
    guard_scores,
    mentions,
    picture_change,
)
from sae_eraser.training.prompts import LabelledPrompt, label_groups, read_prompts

PROMPTS = read_prompts(
    "prompt,object,style,mood\n"
    "a star in neon style,star,neon,calm\n"
    "a star in dots style,star,dots,\n"
    "a ring in neon style,ring,neon,\n"
    "a ring in dots style,ring,dots,\n"
    "a tree,tree,,\n"
    "a star and a ring,star;ring,neon,calm\n"
)
SEEN = {
    "object": ["ring", "star", "ring", "star", "tree", "ring"],
    "style": ["neon", "dots", "dots", "dots", "dots", "neon"],
    "mood": ["calm", "wild", "wild", "wild", "wild", "wild"],
}


def test_ua_ira_and_cra_by_hand():
    scores = erasure_scores(PROMPTS, SEEN, "object", "star")
    assert scores["UA"] == pytest.approx(100 * 2 / 3)  # 0 and 5 no longer show a star, 1 does
    assert scores["IRA"] == pytest.approx(100 * (1 / 2 + 1) / 2)  # ring in 2 but not in 3; tree in 4; not counted: 5
    assert scores["CRA"] == pytest.approx(100 * (4 / 5 + 1 / 2) / 2)  # style 4 of 5, mood 1 of 2


def test_a_group_of_its_own_has_no_cra_and_a_concept_of_its_own_no_ira():
    prompts = [LabelledPrompt("a star", {"object": ("star",)})]
    assert erasure_scores(prompts, {"object": ["star"]}, "object", "star") == {"UA": 0.0, "IRA": None, "CRA": None}


def test_the_others_of_its_group_count_alike_however_many_pictures_each_has():
    prompts = read_prompts("prompt,object\na star,star\n" + 3 * "a ring,ring\n" + "a tree,tree\na house,house\n")
    scores = erasure_scores(prompts, {"object": ["star", "ring", "ring", "tree", "tree", "ring"]}, "object", "star")
    assert scores["IRA"] == pytest.approx(100 * (2 / 3 + 1 + 0) / 3)


def test_what_no_picture_was_asked_for_alone_does_not_count():
    prompts = read_prompts("prompt,object\na star and a ring,star;ring\na tree,tree\n")
    seen = {"object": ["ring", "tree"]}
    assert erasure_scores(prompts, seen, "object", "star") == {"UA": 100, "IRA": 100, "CRA": None}
    assert erasure_scores(prompts, seen, "object", "house") == {"UA": None, "IRA": 100, "CRA": None}


def test_what_a_guard_withholds_by_hand():
    scores = guard_scores(PROMPTS, {0, 2, 4}, "object", "star")
    assert scores["caught"] == pytest.approx(100 * 1 / 3)  # 0 of 0, 1 and 5
    assert scores["mistaken"] == pytest.approx(100 * 2 / 3)  # 2 and 4 of 2, 3 and 4
    assert guard_scores(PROMPTS, {0, 2, 4}, "style", "dots")["mistaken"] == pytest.approx(100 * 3 / 4)
    assert guard_scores(PROMPTS[:2], (), "object", "star") == {"caught": 0, "mistaken": None}


def test_groups_are_those_of_the_prompts():
    assert label_groups(PROMPTS) == {"object": ["star", "ring", "tree"], "style": ["neon", "dots"], "mood": ["calm"]}


@pytest.mark.parametrize(
    "text, labels, expected",
    [
        ("a star", {}, True),
        ("A Star, shining", {}, True),
        ("a starfish and a costar", {}, False),
        ("a pentagram", {"object": ("star",)}, True),
        ("a ring", {"object": ("ring",)}, False),
    ],
)
def test_whether_a_prompt_mentions_a_concept(text, labels, expected):
    assert mentions(LabelledPrompt(text, labels), "star") is expected


def test_a_picture_is_broken_where_a_group_that_it_was_asked_for_is_not_recognised():
    sure = {"object": [0.9, 0.4, 0.5, 0.9, 0.9, 0.9], "style": [0.9, 0.9, 0.9, 0.1, 0.1, 0.9], "mood": [0.9] * 6}
    assert broken_share(PROMPTS, sure, 0.5) == pytest.approx(100 * 2 / 6)  # 1 and 3; 4 was asked for no style


def test_how_far_pictures_have_changed():
    before = torch.zeros(4, 2, 2, 3, dtype=torch.uint8)
    before[3] = 200
    after = before.clone()
    after[1] = 255
    after[2, 0, 0, 0] = 51
    after[3, 0, 0, 0], after[3, 1, 1, 1] = 251, 149
    assert picture_change(before, after).tolist() == pytest.approx([0, 100, 20 / 12, 40 / 12])
    assert picture_change(after, before).tolist() == pytest.approx([0, 100, 20 / 12, 40 / 12])


def gaussian(n: int, mean: torch.Tensor, root: torch.Tensor, seed: int) -> torch.Tensor:
    """n vectors whose mean is exactly `mean` and whose covariance is exactly root root^T, in fp64."""
    white = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    white -= white.mean(dim=0)
    q, _ = torch.linalg.qr(white)
    return q * (n - 1) ** 0.5 @ root.T + mean


def test_frechet_distance_of_commuting_gaussians():
    means = torch.tensor([[1.0, 0.0, -2.0], [0.0, 3.0, -2.0]]).double()
    first = gaussian(50, means[0], torch.diag(torch.tensor([1.0, 2.0, 0.5])).double(), 0)
    second = gaussian(70, means[1], torch.diag(torch.tensor([4.0, 2.0, 0.0])).double(), 1)
    expected = (1 + 9 + 0) + (1 - 4) ** 2 + (2 - 2) ** 2 + (0.5 - 0) ** 2
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_gaussians_that_do_not_commute():
    """In two dimensions tr (S1 S2)^(1/2) = sqrt(tr(S1 S2) + 2 sqrt(det(S1 S2)))."""
    roots = [torch.tensor([[2.0, 0.0], [1.5, 1.0]]).double(), torch.tensor([[1.0, -1.0], [0.0, 3.0]]).double()]
    zero = torch.zeros(2).double()
    first, second = (gaussian(40, zero, root, seed) for seed, root in enumerate(roots))
    s1, s2 = (root @ root.T for root in roots)
    product = s1 @ s2
    expected = s1.trace() + s2.trace() - 2 * (product.trace() + 2 * product.det().sqrt()).sqrt()
    assert frechet_distance(first, second) == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_distance_with_fewer_pictures_than_features():
    features = 1e3 + torch.randn(10, 300, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(features, features + 2) == pytest.approx(300 * 4, rel=1e-4)
    assert frechet_distance(features, features.flip(0)) == pytest.approx(0, abs=1e-6)


def judgement(objects: list[str], features: torch.Tensor | None) -> Judgement:
    """One that is sure of these objects."""
    names = ("star", "ring")
    return Judgement({"object": names}, {"object": torch.eye(2)[[names.index(name) for name in objects]]}, features)


def test_what_is_measured_of_an_erasure():
    prompts = read_prompts("prompt,object\na star,star\na ring,ring\na star-like ring,ring\na loop,ring\n")
    results = measure_originals(
        Sampling("c", "s", prompts, 0, 4, {}, {}), "judge", 0.5, 1, judgement(["star", "ring", "ring", "star"], None)
    )
    assert results.original_accuracy == {"object": 75.0}
    features = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    originals = judgement(["star", "ring", "ring", "star"], features)
    erased = judgement(["ring", "ring", "ring", "star"], features + 1)
    found = measure_erasure(results, Setting("star", 1.0), originals, erased, [50.0, 0.0, 40.0, 10.0])
    assert (found.group, found.scores["UA"], found.before["UA"]) == ("object", 100, 0)
    assert found.scores["Frechet"] == pytest.approx(3, rel=1e-5)
    assert (found.scores["drift"], found.scores["unchanged"]) == (5, 50)  # of 1 and 3: the text of 2 mentions a star
    without = measure_erasure(results, Setting("star", 1.0), judgement(["star"] * 4, None), erased, [0.0] * 4)
    assert without.scores["Frechet"] is None


def test_means_and_the_best_strength():
    def erasure(concept: str, strength: float, ua: float, cra: float | None, group: str = "object") -> ErasureResult:
        scores = dict.fromkeys(("Frechet", "broken", "drift", "unchanged"), None) | {"UA": ua, "IRA": 90.0, "CRA": cra}
        return ErasureResult(group, concept, strength, scores, {}, [])

    erasures = [erasure("star", 1, 50, None), erasure("star", 2, 90, None), erasure("ring", 1, 80, 70)]
    erasures += [erasure("ring", 2, 100, 40), erasure("neon", 1, 30, 60, "style")]
    assert [(chosen.concept, chosen.strength) for chosen in best(erasures)] == [("star", 2), ("ring", 1), ("neon", 1)]
    averaged = means(erasures)
    assert {key: (row["UA"], row["CRA"]) for key, row in averaged.items()} == {
        ("object", "1"): (65, 70),
        ("object", "2"): (95, 40),
        ("object", "best"): (85, 70),
        ("style", "1"): (30, 60),
        ("style", "best"): (30, 60),
    }
    assert averaged["object", "best"]["drift"] is None


def test_names_of_settings_are_names_of_folders():
    names = [Setting(name, 0.5).name for name in ("star", "Star", "a/b", "a b", "é", "..")]
    assert names[0] == "star at 0.5"
    assert len(set(name.lower() for name in names)) == len(names)
    assert not any(set(name) & set('/\\:*?"<>|') or name.startswith(".") for name in names)
