"""Bad SAE files are refused with a message that names the file, the fault and the remedy."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pure.sae_files import rewrite, write_good_file
from sae_eraser.sae_ops.sae_file import SAEFileError, load_sae, read_header

DISC = {"name": "disc", "group": "object", "latents": [0]}


@pytest.fixture
def path(tmp_path) -> Path:
    """A good file, to be spoilt."""
    return write_good_file(tmp_path / "bad.safetensors")


@pytest.fixture(params=[load_sae, read_header])
def read(request):
    """Both ways to read a file."""
    return request.param


def assert_refused(read, path: Path, *words: str) -> None:
    """In one line that names the file and holds these words."""
    with pytest.raises(SAEFileError) as error:
        read(path)
    for word in (str(path), *words):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file(read, tmp_path):
    assert_refused(read, tmp_path / "none.safetensors", "does not exist", "Put the SAE file there")


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file(read, path, share):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert_refused(read, path, "damaged", "download it again")


def test_a_web_page_saved_in_its_place(read, path):
    path.write_text("<!DOCTYPE html><html>404 Not Found</html>")
    assert_refused(read, path, "no safetensors", "download it again")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_safetensors_that_is_no_sae(read, path, metadata):
    save_file({"lora_up.weight": torch.zeros(2, 2)}, path, metadata=metadata)
    assert_refused(read, path, "not an SAE", "sae-eraser train")


def test_a_file_of_a_newer_version(read, path):
    rewrite(path, version=2, soft_prompts=[])
    assert_refused(read, path, "newer", "Update this pack")


@pytest.mark.parametrize(
    "text", ["{", "null", '"sae"', "[1]", "{}", '{"version": "one"}', "[" * 100_000], ids=str.__len__
)
def test_a_header_that_is_no_header(read, path, text):
    save_file(load_file(path), path, metadata={"sae_eraser": text})
    assert_refused(read, path, "header", "again")


@pytest.mark.parametrize(
    "fields",
    [
        {"version": None},
        {"hookpoint": None},
        {"concepts": None},
        {"concepts": "disc"},
        {"concepts": [{"name": "disc"}]},
        {"concepts": [DISC | {"latents": ["0"]}]},
        {"concepts": [DISC | {"multiplier": "-1"}]},
        {"concepts": [DISC | {"multiplier": float("nan")}]},
        {"concepts": [DISC | {"turn": -3.0}]},
        {"concepts": [DISC | {"turn": 10**400}]},
        {"concepts": [DISC | {"latents": []}]},
        {"concepts": [DISC | {"latents": [1.0]}]},
        {"concepts": [DISC | {"latents": [True]}]},
        {"concepts": [DISC | {"name": 5}]},
        {"concepts": [DISC | {"facts": [1]}]},
        {"concepts": [DISC, DISC | {"latents": [1]}]},
        {"hookpoint": 5},
        {"training": [1]},
        {"autoencoder": {"d_in": "12", "n_latents": 24, "k": 6}},
        {"autoencoder": {"d_in": -12, "n_latents": 24, "k": 6}},
        {"autoencoder": {"d_in": 2**62, "n_latents": 2**62, "k": 6}},
        {"autoencoder": {"d_in": 10**30, "n_latents": 24, "k": 6}},
        {"autoencoder": {"d_in": 12, "n_latents": 24.0, "k": 6}},
        {"autoencoder": {"d_in": 12, "n_latents": 24, "k": 6.5}},
        {"unheard_of": 1},
        {"autoencoder": None},
        {"autoencoder": {"d_in": 12, "n_latents": "24"}},
        {"autoencoder": {"d_in": 12, "n_latents": 24, "k": 0}},
        {"autoencoder": {"d_in": 12, "n_latents": 24, "k": 6, "activation": "gelu"}},
    ],
    ids=str,
)
def test_a_header_with_wrong_fields(read, path, fields):
    rewrite(path, **fields)
    assert_refused(read, path, "header", "again")


@pytest.mark.parametrize("latent", [-1, 24])
def test_a_concept_whose_latent_is_out_of_range(read, path, latent):
    rewrite(path, concepts=[DISC | {"latents": [latent]}])
    assert_refused(read, path, "latent", "24", "again")


def test_an_unknown_hooked_tensor(read, path):
    rewrite(path, hooked="attention")
    assert_refused(read, path, "'attention'", "output, residual")


def test_an_unknown_branch(read, path):
    rewrite(path, branch="both")
    assert_refused(read, path, "'both'", "cond, uncond")


@pytest.mark.parametrize("name", ["W_enc", "b_dec", "input_scale", "concepts.overall"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers(path, name, value):
    tensor = load_file(path)[name]
    tensor.view(-1)[0] = value
    rewrite(path, {name: tensor})
    assert_refused(load_sae, path, f"'{name}'", "NaN", "again")


@pytest.mark.parametrize(
    "name, shape",
    [
        ("W_enc", (24, 11)),
        ("W_dec", (23, 12)),
        ("b_enc", (12,)),
        ("threshold", (24,)),
        ("input_scale", (12,)),
        ("concepts.sigmas", (3, 1)),
        ("concepts.sigmas", (0,)),
        ("concepts.overall", (3, 5)),
        ("concepts.background", (2, 6)),
        ("concepts.detection", (3, 5)),
        ("concepts.positions", (3,)),
    ],
)
def test_a_tensor_of_the_wrong_shape(path, name, shape):
    rewrite(path, {name: torch.ones(shape)})
    assert_refused(load_sae, path, "shape", "again")


@pytest.mark.parametrize("name", ["W_enc", "threshold", "concepts.sigmas", "concepts.overall", "concepts.positions"])
def test_a_missing_tensor(path, name):
    rewrite(path, {name: None})
    assert_refused(load_sae, path, "nothing", "again")


@pytest.mark.parametrize("sigmas", [[0.0, 1.0, 2.0], [1.0, 1.0, 2.0], [2.0, 1.0, 3.0]])
def test_noise_levels_that_do_not_rise(path, sigmas):
    rewrite(path, {"concepts.sigmas": torch.tensor(sigmas)})
    assert_refused(load_sae, path, "noise levels", "again")


def test_detection_over_no_positions(path):
    rewrite(path, {"concepts.positions": torch.tensor(0.0)})
    assert_refused(load_sae, path, "concepts.positions", "at least 1", "again")


def test_an_input_scale_of_zero(path):
    rewrite(path, {"input_scale": torch.tensor(0.0)})
    assert_refused(load_sae, path, "input_scale", "again")


def test_a_header_that_claims_to_be_huge_takes_no_memory(path):
    rewrite(path, autoencoder={"d_in": 10**7, "n_latents": 10**7, "k": 6})
    assert_refused(load_sae, path, "should have the shape (10000000, 10000000)")


def test_complex_numbers(path):
    rewrite(path, {"W_enc": torch.zeros(24, 12, dtype=torch.complex64)})
    assert_refused(load_sae, path, "'W_enc'", "complex64", "fp32")


def test_a_loaded_file_may_be_overwritten_in_place(path, tmp_path):
    sae, _, statistics = load_sae(path)
    before = sae.W_enc.clone(), statistics.overall.clone()
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(sae.W_enc, before[0]) and torch.equal(statistics.overall, before[1])
