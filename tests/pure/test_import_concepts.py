"""SAeUron's concept tables: the concepts out of them make the edit that SAeUron's code makes of them."""

import pickle
from pathlib import Path

import pytest
import torch

from sae_eraser.sae_ops.autoencoder import SAEConfig, SparseAutoencoder
from sae_eraser.sae_ops.edit import PAPER_COMPAT, Erasure
from sae_eraser.sae_ops.paper_edit import PaperEdit
from sae_eraser.sae_ops.sae_file import load_sae
from sae_eraser.training.cli import main
from sae_eraser.training.concept_tables import SHUT, Settings, concepts_of_table, ddim_sigmas, read_settings, read_table

N, STEPS = 48, 20
NAMES = ("Bears", "Birds", "Cats")
PERCENTILE = 97.0
"""Of 48 latents the two with the highest scores."""


@pytest.fixture
def table() -> dict[str, torch.Tensor]:
    """Every concept has latents of its own early and late, so that the choice changes over the steps."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for index, name in enumerate(NAMES):
        latents = 0.2 * torch.rand(5 + index, STEPS, N, generator=generator)
        latents[:, : 8 + index, 3 * index] += 2
        latents[:, 8 + index :, 3 * index + 1] += 2
        latents[:, :, 3 * index + 2] += 1
        made[name] = latents.half()
    return made


@pytest.fixture
def path(tmp_path, table) -> Path:
    path = tmp_path / "cls_latents_dict_unet.up_blocks.1.attentions.1.pkl"
    path.write_bytes(pickle.dumps(table))
    return path


def published_selection(table: dict, name: str, step: int) -> torch.Tensor:
    """Indices of the latents whose score is above the percentile."""
    own = table[name][:, step].float().mean(dim=0)
    others = torch.cat([table[other][:, step].float() for other in NAMES if other != name]).mean(dim=0)
    score = own / own.sum() - others / others.sum()
    return (score > torch.quantile(score, PERCENTILE / 100)).nonzero()[:, 0]


def test_noise_levels_are_those_of_stable_diffusion():
    """sigma_min and the largest but eight of ComfyUI's 1000 levels; and descending, as sampling goes."""
    sigmas = ddim_sigmas(100)
    assert len(sigmas) == 100 and (sigmas.diff() < 0).all()
    betas = [(0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * i / 999) ** 2 for i in range(1000)]
    product, levels = 1.0, []
    for beta in betas:
        product *= 1 - beta
        levels.append(((1 - product) / product) ** 0.5)
    assert levels[0] == pytest.approx(0.0292, abs=1e-4) and levels[-1] == pytest.approx(14.6146, abs=1e-3)
    assert sigmas.tolist() == pytest.approx([levels[10 * i + 1] for i in range(99, -1, -1)], rel=1e-5)


def test_the_means_are_the_tables(path, table):
    names, means = read_table(path, N)
    assert names == list(NAMES)
    for index, name in enumerate(NAMES):
        own = table[name].float().mean(dim=0).flip(0)
        others = torch.cat([table[other].float() for other in NAMES if other != name]).mean(dim=0).flip(0)
        torch.testing.assert_close(means.with_concept[index], own)
        torch.testing.assert_close(means.without[index], others, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        means.overall, torch.stack([t.float().mean(dim=0) for t in table.values()]).mean(dim=0).flip(0)
    )


def test_at_every_step_the_latents_of_the_published_selection_are_open(path, table):
    concepts, statistics = concepts_of_table(path, N, "object", {}, Settings(PERCENTILE, -2.0))
    start = 0
    for concept in concepts:
        columns = torch.arange(start, start + len(concept.latents))
        start += len(concept.latents)
        assert (concept.group, concept.multiplier) == ("object", -2.0)
        for step, sigma in enumerate(ddim_sigmas(STEPS)):
            means = statistics.at(sigma[None], columns)
            is_open = means["overall"][0] < SHUT / 2
            chosen = published_selection(table, concept.name, step)
            assert torch.tensor(concept.latents)[is_open].tolist() == chosen.tolist(), (concept.name, step)
            own = table[concept.name][:, step].float().mean(dim=0)[list(concept.latents)]
            torch.testing.assert_close(means["with_concept"][0], own, rtol=1e-4, atol=1e-5)
            everywhere = torch.stack([t[:, step].float().mean(dim=0) for t in table.values()]).mean(dim=0)
            torch.testing.assert_close(
                means["overall"][0, is_open], everywhere[torch.tensor(concept.latents)[is_open]], rtol=1e-4, atol=1e-5
            )


def test_between_steps_the_nearer_one_decides(path, table):
    """Nearer in log sigma; but for the one part in 10^5 at the middle every gate is open or shut."""
    concepts, statistics = concepts_of_table(path, N, "object", {}, Settings(PERCENTILE))
    steps = ddim_sigmas(STEPS)
    sigmas = torch.linspace(steps.min().log(), steps.max().log(), 500).exp()
    far = (sigmas[:, None].log() - steps.log()).abs()
    sure = far.topk(2, largest=False).values.diff(dim=1)[:, 0] > 1e-3
    nearest = far.argmin(dim=1)
    assert sure.sum() > 490
    start = 0
    for concept in concepts:
        columns = torch.arange(start, start + len(concept.latents))
        start += len(concept.latents)
        gates = statistics.at(sigmas, columns)["overall"][sure]
        chosen = [set(published_selection(table, concept.name, step).tolist()) for step in range(STEPS)]
        expected = [[latent in chosen[step] for latent in concept.latents] for step in nearest[sure].tolist()]
        assert torch.equal(gates < 5, torch.tensor(expected))
        assert torch.equal(gates > SHUT / 2, ~torch.tensor(expected))
    assert STEPS < len(statistics.sigmas) < 3 * STEPS - 2, "where no choice changes nothing is added"


def test_the_edit_of_the_paper_with_the_papers_table(path, table, tmp_path):
    """From the imported file, against the published formula at one step of the table."""
    sae = SparseAutoencoder(SAEConfig(12, N, "topk", 20)).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for tensor in sae.parameters():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    concepts, statistics = concepts_of_table(
        path, N, "object", {"Birds": Settings(PERCENTILE, -3.0)}, Settings(PERCENTILE)
    )
    maps, step = torch.randn(1, 12, 3, 4, generator=generator), 5
    birds = Erasure(1, mode=PAPER_COMPAT)
    edited = PaperEdit(sae, concepts, statistics, (birds,))(maps, ddim_sigmas(STEPS)[[step]], torch.tensor([True]))
    x = maps[0].flatten(1).T
    z = sae.encode(x)
    after = z.clone()
    gate = torch.stack([t[:, step].float().mean(dim=0) for t in table.values()]).mean(dim=0)
    for latent in published_selection(table, "Birds", step).tolist():
        factor = -3.0 * table["Birds"][:, step, latent].float().mean()
        after[:, latent] = torch.where(z[:, latent] > gate[latent], z[:, latent] * factor, z[:, latent])
    assert not torch.equal(z, after)
    expected = sae.decode(after) + (sae.decode(z) - x)
    torch.testing.assert_close(edited[0].flatten(1).T, expected, rtol=1e-4, atol=1e-4)


def test_the_command_puts_them_into_the_file(path, tmp_path, capsys):
    torch.save({"Cats": {"percentile": 97.0, "multiplier": -15.0}}, tmp_path / "class_params.pth")
    source, out = Path(__file__).parent / "references" / "sparsify_topk", tmp_path / "sae.safetensors"
    place = ("--hookpoint", "up_blocks.1.attentions.1", "--model-family", "SD15")
    tables = ("--concepts", str(path), "--settings", str(tmp_path / "class_params.pth"), "--group", "animal")
    assert main(["import", str(source), "--out", str(out), *place, *tables, "--multiplier", "-5"]) == 0
    assert "animal: Cats" in capsys.readouterr().out
    _, header, statistics = load_sae(out)
    assert {concept.name: concept.multiplier for concept in header.concepts} == {"Bears": -5, "Birds": -5, "Cats": -15}
    assert [len(concept.latents) >= 1 for concept in header.concepts] == [True] * 3
    assert header.concepts[2].facts["percentile"] == 97.0
    assert statistics.sigmas[-1] == pytest.approx(float(ddim_sigmas(STEPS)[0]))
    assert out.stat().st_size < 40_000


@pytest.mark.parametrize(
    "option",
    [
        "--percentile=150",
        "--percentile=nan",
        "--multiplier=nan",
        "--multiplier=inf",
        "--multiplier=-inf",
        "--multiplier=1.5",
    ],
)
def test_impossible_settings_of_the_command_line_leave_the_file_that_was_there(path, tmp_path, capsys, option):
    source, out = Path(__file__).parent / "references" / "sparsify_topk", tmp_path / "sae.safetensors"
    out.write_text("as it was")
    place = ("--hookpoint", "up_blocks.1.attentions.1", "--model-family", "SD15", "--overwrite")
    assert main(["import", str(source), "--out", str(out), *place, "--concepts", str(path), option]) == 1
    limits = {"percentile": "at least 0 and below 100.", "multiplier": "a finite number up to 0: a positive one leaves"}
    name, given = option.removeprefix("--").split("=")
    assert f"The {name} is {given}, but must be {limits[name]}" in capsys.readouterr().err
    assert out.read_text() == "as it was"


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda table: table.pop("Cats") is table.pop("Birds"), "at least two concepts"),
        (lambda table: table.update(Cats=table["Cats"][..., :-1]), r"'Cats' is \(7, 20, 47\)"),
        (lambda table: table.update(Cats=table["Cats"][:, :-1]), "'Cats' has 19 steps"),
        (lambda table: table.update(Cats=[1.0]), "'Cats' is list"),
        (lambda table: table.update({"": table["Cats"]}), "1.pkl: the name of a concept is ''.*again with a name"),
        (lambda table: table.update({" ": table["Cats"]}), "the name of a concept is ' '"),
        (lambda table: table["Cats"].fill_(float("nan")), "'Cats' holds NaN"),
        (lambda table: table.update((name, torch.ones(1, 1000, N)) for name in table), "has 1000 steps"),
    ],
)
def test_tables_that_do_not_belong_to_the_sae(path, table, spoil, words):
    spoil(table)
    path.write_bytes(pickle.dumps(table))
    with pytest.raises(ValueError, match=words):
        concepts_of_table(path, N, "object", {}, Settings())


NOTHING = torch.zeros(1, STEPS, N)


@pytest.mark.parametrize(
    "spoil", [lambda table: dict.fromkeys(NAMES, table["Cats"]), lambda table: table | {"Bears": NOTHING}]
)
def test_what_no_percentile_could_tell_apart(path, table, spoil):
    """Concepts that are alike, and one for which nothing fires."""
    path.write_bytes(pickle.dumps(spoil(table)))
    with pytest.raises(ValueError, match="No latent fires more for 'Bears' than for the other .* again without this"):
        concepts_of_table(path, N, "object", {}, Settings(50.0))


def test_a_percentile_that_leaves_no_latent(path):
    even = torch.cat([torch.full((5, STEPS, N // 2), 2.0), torch.ones(5, STEPS, N // 2)], dim=2)
    path.write_bytes(pickle.dumps({"a": even, "b": even.flip(2)}))
    with pytest.raises(ValueError, match="No latent tells 'a' from the others. Lower the percentile."):
        concepts_of_table(path, N, "object", {}, Settings())
    assert len(concepts_of_table(path, N, "object", {}, Settings(25.0))[0][0].latents) == N // 2


@pytest.mark.parametrize(
    "latents, words",
    [
        (torch.ones(1).half().expand(10**9, STEPS, N), "is larger than the file"),
        (torch.ones(2, STEPS, N).to_sparse(), "is no dense one"),
        (torch.empty(2, STEPS, N, device="meta"), "is no dense one"),
    ],
    ids=["larger than the file", "sparse", "meta"],
)
def test_tables_that_torch_wrote_hold_plain_tensors(tmp_path, table, latents, words):
    torch.save(table | {"Cats": latents}, tmp_path / "table.pth")
    with pytest.raises(ValueError, match=f"the tensor 'Cats' {words}"):
        concepts_of_table(tmp_path / "table.pth", N, "object", {}, Settings())


def test_the_table_in_place_of_the_settings(path):
    with pytest.raises(ValueError, match=f"^{path} should hold a percentile and a multiplier"):
        read_settings(path)


def test_settings_for_an_unknown_concept(path):
    with pytest.raises(ValueError, match="no concept 'Dogs'"):
        concepts_of_table(path, N, "object", {"Dogs": Settings()}, Settings())


@pytest.mark.parametrize(
    "data",
    [
        [1],
        {"Cats": 1},
        {"Cats": {"percentile": 99}},
        {"Cats": {"percentile": 101, "multiplier": -1}},
        {"Cats": {"percentile": 10**400, "multiplier": -1}},
        {"Cats": {"percentile": 99, "multiplier": 1.5}},
    ],
    ids=str,
)
def test_settings_that_are_none(tmp_path, data):
    torch.save(data, tmp_path / "class_params.pth")
    with pytest.raises(ValueError, match="class_params.pth should hold a percentile and a multiplier.* --settings.$"):
        read_settings(tmp_path / "class_params.pth")
