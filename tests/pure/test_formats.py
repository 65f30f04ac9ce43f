"""SAEs of other tools give the latents and reconstructions that the tools themselves compute.

The files in references/ were written by those tools, see make_references.py; the others are laid out here as their
authors lay them out, and compared with the formula written out.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_eraser.sae_ops.formats import find_weights, known_formats, open_any, read_foreign, recognise
from sae_eraser.sae_ops.sae_file import SAEFileError

REFERENCES = Path(__file__).parent / "references"
CASES = sorted(folder.name for folder in REFERENCES.iterdir() if folder.is_dir() and folder.name != "__pycache__")
FORMATS = {"sparsify": "sparsify", "saelens": "SAELens", "dictionary": "dictionary_learning"}
D, N, K = 12, 48, 5


def given_for(case: str) -> dict:
    """The settings that the files leave out."""
    given = REFERENCES / case / "given.json"
    return json.loads(given.read_text()) if given.exists() else {}


@pytest.mark.parametrize("case", CASES)
def test_latents_and_reconstruction_are_the_tools_own(case):
    expected = load_file(REFERENCES / case / "expected.safetensors")
    foreign = read_foreign(REFERENCES / case, given_for(case))
    assert foreign.format == FORMATS.get(case.split("_")[0], "overcomplete")
    sae = foreign.autoencoder
    z = sae.encode(expected["x"])
    assert 0 < (expected["z"] > 0).float().mean() < 0.9
    assert torch.equal(z > 0, expected["z"] > 0)
    torch.testing.assert_close(z, expected["z"], rtol=0, atol=1e-5)
    torch.testing.assert_close(sae.decode(expected["z"], expected["x"]), expected["x_hat"], rtol=0, atol=1e-5)
    torch.testing.assert_close(sae(expected["x"]), expected["x_hat"], rtol=0, atol=1e-5)


def test_there_is_a_reference_for_every_tool():
    assert {case.split("_")[0] for case in CASES} == {"sparsify", "saelens", "dictionary", "overcomplete"}
    assert len(CASES) == 24


# --- formats without a package: laid out as their authors do ---


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "W_enc": torch.randn(N, D, generator=generator) / D**0.5,
        "b_enc": 0.1 * torch.randn(N, generator=generator),
        "W_dec": torch.randn(N, D, generator=generator),
        "b_dec": 0.2 * torch.randn(D, generator=generator),
        "x": torch.randn(16, D, generator=generator) + 0.5,
    }


def straight(weights: dict, k: int | None = None, layer_norm: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and reconstruction, a vector at a time, in double precision."""
    W_enc, b_enc, W_dec, b_dec, x = (tensor.double() for tensor in weights.values())
    latents, reconstructions = [], []
    for vector in x:
        mean, deviation = (vector.mean(), vector.std()) if layer_norm else (0.0, None)
        inner = (vector - mean) / (deviation + 1e-5) if layer_norm else vector
        pre_acts = [max(0.0, float(row @ (inner - b_dec) + bias)) for row, bias in zip(W_enc, b_enc, strict=True)]
        kept = sorted(range(N), key=pre_acts.__getitem__)[-(k or N) :]
        z = torch.tensor([value if i in kept else 0.0 for i, value in enumerate(pre_acts)], dtype=torch.double)
        x_hat = sum(value * row for value, row in zip(z, W_dec, strict=True)) + b_dec
        latents.append(z)
        reconstructions.append(x_hat * deviation + mean if layer_norm else x_hat)
    return torch.stack(latents).float(), torch.stack(reconstructions).float()


def write_saeuron(folder: Path, weights: dict, **settings) -> Path:
    folder.mkdir(parents=True)
    names = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}
    save_file({theirs: weights[ours] for ours, theirs in names.items()}, folder / "sae.safetensors")
    config = {"expansion_factor": 4, "normalize_decoder": True, "num_latents": 0, "k": K, "batch_topk": True}
    config |= {"sample_topk": False, "input_unit_norm": False, "multi_topk": False, "d_in": D}
    settings = {name: value for name, value in (config | settings).items() if value is not None}
    (folder / "cfg.json").write_text(json.dumps(settings))
    return folder


def write_sdxl_unbox(folder: Path, weights: dict, config: str = "config.json") -> Path:
    folder.mkdir(parents=True)
    state = {"encoder.weight": weights["W_enc"], "decoder.weight": weights["W_dec"].T.contiguous()}
    state |= {"pre_bias": weights["b_dec"], "latent_bias": weights["b_enc"]}
    state["stats_last_nonzero"] = torch.zeros(N, dtype=torch.long)
    torch.save({"state_dict": state}, folder / "state_dict.pth")
    settings = {"n_dirs_local": N, "d_model": D, "k": K, "auxk": 256, "dead_steps_threshold": 200}
    (folder / config).write_text(json.dumps(settings))
    return folder


def write_openai(path: Path, weights: dict, activation: str, **state) -> Path:
    tensors = {"pre_bias": weights["b_dec"], "latent_bias": weights["b_enc"], "encoder.weight": weights["W_enc"]}
    tensors["decoder.weight"] = weights["W_dec"].T.contiguous()
    torch.save(tensors | {"activation": activation, "activation_state_dict": state}, path)
    return path


def assert_agrees(foreign, weights: dict, expected: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, x_hat = expected
    torch.testing.assert_close(foreign.autoencoder.encode(weights["x"]), z, rtol=0, atol=1e-5)
    torch.testing.assert_close(foreign.autoencoder(weights["x"]), x_hat, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["unet.up_blocks.1.attentions.1", "coco/unet.up_blocks.1.attentions.1"])
@pytest.mark.parametrize("unit_norm", [False, True])
def test_saeuron(tmp_path, weights, name, unit_norm):
    foreign = read_foreign(write_saeuron(tmp_path / name, weights, input_unit_norm=unit_norm))
    assert foreign.format == "SAeUron"
    assert (foreign.header.hookpoint, foreign.header.model_family) == ("up_blocks.1.attentions.1", "SD15")
    assert (foreign.header.hooked, foreign.header.autoencoder.activation) == ("output", "topk")
    assert_agrees(foreign, weights, straight(weights, K, layer_norm=unit_norm))


def test_saemnesia_in_saeurons_layout(tmp_path, weights):
    """Flat, so that nothing names the block, and with its own names for the sizes."""
    folder = write_saeuron(tmp_path / "SAEmnesia", weights, d_in=None, num_latents=None, d_model=D, n_dirs_local=N)
    foreign = read_foreign(folder)
    assert (foreign.format, foreign.header.hookpoint) == ("SAeUron", "")
    assert_agrees(foreign, weights, straight(weights, K))


def test_saemnesia_in_sdxl_unbox_layout(tmp_path, weights):
    foreign = read_foreign(write_sdxl_unbox(tmp_path / "SAEmnesia", weights, "cfg.json"))
    assert (foreign.format, foreign.header.hooked, foreign.header.hookpoint) == ("sdxl-unbox", "residual", "")
    assert_agrees(foreign, weights, straight(weights, K))


@pytest.mark.parametrize(
    "folder, hookpoint",
    [
        ("down.2.1", "down_blocks.2.attentions.1"),
        ("sae_mid.0_k10", "mid_block.attentions.0"),
        ("up.0.0", "up_blocks.0.attentions.0"),
        ("up.0.1", "up_blocks.0.attentions.1"),
        ("unet.down_blocks.2.attentions.1_k10_hidden5120_auxk256_bs4096_lr0.0001/final", "down_blocks.2.attentions.1"),
    ],
)
def test_sdxl_unbox(tmp_path, weights, folder, hookpoint):
    path = write_sdxl_unbox(tmp_path / folder, weights)
    torch.save(torch.ones(N), path / "mean.pt")  # of the latents
    foreign = read_foreign(path)
    assert (foreign.format, foreign.header.hooked, foreign.header.hookpoint) == ("sdxl-unbox", "residual", hookpoint)
    assert foreign.header.model_family == ("" if "unet" in folder else "SDXL")
    assert_agrees(foreign, weights, straight(weights, K))


def test_sdxl_unbox_with_means_of_the_input_is_refused(tmp_path, weights):
    path = write_sdxl_unbox(tmp_path / "up.0.1", weights)
    torch.save(torch.ones(D), path / "mean.pt")
    with pytest.raises(SAEFileError, match="mean.pt should hold one number for each of the 48 latents"):
        read_foreign(path)


def test_openai_with_topk_normalises_its_input(tmp_path, weights):
    foreign = read_foreign(write_openai(tmp_path / "5.pt", weights, "TopK", k=K, postact_fn="ReLU"))
    assert foreign.format == "OpenAI"
    assert_agrees(foreign, weights, straight(weights, K, layer_norm=True))


def test_openai_with_relu(tmp_path, weights):
    assert_agrees(read_foreign(write_openai(tmp_path / "1.pt", weights, "ReLU")), weights, straight(weights))


def test_openai_with_tied_weights(tmp_path, weights):
    path = write_openai(tmp_path / "1.pt", weights, "ReLU")
    state = torch.load(path)
    state["decoder.linear.weight"] = state["encoder.weight"]
    del state["decoder.weight"]
    torch.save(state, path)
    weights["W_dec"] = weights["W_enc"]
    assert_agrees(read_foreign(path), weights, straight(weights))


# --- what is recognised, and what is refused ---


def test_formats_are_recognised_by_content_not_by_name(tmp_path, weights):
    """Every file gets the same name; the settings keep theirs, as only they tell some formats apart."""
    found = set()
    for case in CASES:
        folder = tmp_path / case
        folder.mkdir()
        source = find_weights(REFERENCES / case)
        (folder / "weights.bin").write_bytes(source.read_bytes())
        for settings in source.parent.glob("c*g.json"):
            (folder / settings.name).write_bytes(settings.read_bytes())
        found.add(recognise(folder / "weights.bin"))
    found.add(recognise(write_saeuron(tmp_path / "a", weights) / "sae.safetensors"))
    found.add(recognise(write_sdxl_unbox(tmp_path / "b", weights) / "state_dict.pth"))
    found.add(recognise(write_openai(tmp_path / "c.pt", weights, "ReLU")))
    assert found == set(known_formats())


def test_other_files_are_no_saes(tmp_path):
    save_file({"lora_up.weight": torch.zeros(2, 2)}, tmp_path / "lora.safetensors")
    torch.save(torch.ones(3), tmp_path / "mean.pt")
    torch.save({"encoder.weight": torch.ones(3, 3)}, tmp_path / "vae.pt")
    (tmp_path / "broken.pt").write_text("<!DOCTYPE html>")
    assert [recognise(path) for path in sorted(tmp_path.iterdir())] == [None] * 4


@pytest.mark.parametrize(
    "case, settings, words",
    [
        ("sparsify_topk", {"transcode": True}, "transcoder"),
        ("sparsify_topk", {"skip_connection": True}, "transcoder"),
        ("sparsify_topk", {"k": None}, "--k"),
        ("sparsify_topk", {"k": 49}, "k is 49"),
        ("sparsify_topk", {"d_in": 13}, "d_in = 13, but its tensors 12"),
        ("sparsify_groupmax", {"k": 5}, "equal groups"),
        ("saelens_standard", {"architecture": "abstopk"}, "abstopk"),
        ("saelens_standard", {"architecture": "transcoder"}, "transcoder"),
        ("saelens_standard", {"activation_fn": "tanh-relu"}, "tanh-relu"),
        ("saelens_standard", {"normalize_activations": "expected_average_only_in"}, "activation_scaler.json"),
        ("saelens_standard", {"normalize_activations": "covariance_whitening"}, "Fold that"),
        ("saelens_topk", {"architecture": "gated"}, "b_gate"),
        ("dictionary_learning_BatchTopKSAE", {"trainer": {}}, "TopK or BatchTopK"),
        ("overcomplete_topk", {}, "--k"),
    ],
)
def test_what_cannot_be_told_or_be_an_autoencoder_is_refused(tmp_path, case, settings, words):
    """In one line that names the file."""
    folder = tmp_path / case
    folder.mkdir()
    source = find_weights(REFERENCES / case)
    (folder / source.name).write_bytes(source.read_bytes())
    for path in source.parent.glob("c*g.json"):
        config = json.loads(path.read_text()) | settings
        (folder / path.name).write_text(
            json.dumps({name: value for name, value in config.items() if value is not None})
        )
    with pytest.raises(SAEFileError) as error:
        read_foreign(folder)
    assert words in str(error.value) and str(folder / source.name) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_scale_of_saelens_input_is_read_from_its_own_file(tmp_path):
    source = REFERENCES / "saelens_standard"
    config = json.loads((source / "cfg.json").read_text()) | {"normalize_activations": "expected_average_only_in"}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    (tmp_path / "sae_weights.safetensors").write_bytes((source / "sae_weights.safetensors").read_bytes())
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 2.0}')
    scaled, plain = read_foreign(tmp_path).autoencoder, read_foreign(source).autoencoder
    x = torch.randn(4, D)
    torch.testing.assert_close(scaled.encode(x), plain.encode(2 * x))
    torch.testing.assert_close(scaled(x), plain(2 * x) / 2)


def test_saelens_before_version_6(tmp_path):
    """TopK was an activation function, and the scaling factor was written even where it did nothing."""
    source = REFERENCES / "saelens_topk"
    config = {"d_in": D, "d_sae": N, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"normalize_activations": None}))
    tensors = load_file(source / "sae_weights.safetensors")
    save_file(tensors | {"scaling_factor": torch.ones(N)}, tmp_path / "sae_weights.safetensors")
    expected = load_file(source / "expected.safetensors")
    torch.testing.assert_close(read_foreign(tmp_path).autoencoder.encode(expected["x"]), expected["z"])
    save_file(tensors | {"scaling_factor": torch.full((N,), 1.1)}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(SAEFileError, match="scaling factor"):
        read_foreign(tmp_path)


@pytest.mark.parametrize(
    "case, settings",
    [
        ("saelens_standard", {"normalize_activations": ["x"]}),
        ("saelens_topk", {"architecture": "standard", "activation_fn": "topk", "activation_fn_kwargs": "x"}),
        ("overcomplete_topk", {"k": "3"}),
    ],
)
def test_settings_that_make_no_sense_are_refused_as_such(tmp_path, case, settings):
    folder = tmp_path / case
    folder.mkdir()
    source = find_weights(REFERENCES / case)
    (folder / source.name).write_bytes(source.read_bytes())
    found = [json.loads(path.read_text()) for path in source.parent.glob("c*g.json")] or [{}]
    (folder / "cfg.json").write_text(json.dumps(found[0] | settings))
    with pytest.raises(SAEFileError, match=f"{source.name}.*[Dd]ownload or save it again"):
        read_foreign(folder)


def test_a_hooked_tensor_that_no_node_knows_is_refused(tmp_path, weights):
    """It would be taken for the output."""
    folder = write_saeuron(tmp_path / "bad", weights, metadata={"sae_eraser_hooked": "input"})
    with pytest.raises(SAEFileError, match="hooked tensor 'input'; known are output, residual"):
        open_any(folder / "sae.safetensors")


@pytest.mark.parametrize("factor", [0, -2.0, float("nan")])
def test_an_input_scale_that_is_none(tmp_path, factor):
    source = REFERENCES / "saelens_standard"
    config = json.loads((source / "cfg.json").read_text()) | {"normalize_activations": "expected_average_only_in"}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    (tmp_path / "sae_weights.safetensors").write_bytes((source / "sae_weights.safetensors").read_bytes())
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor}))
    with pytest.raises(SAEFileError, match="must be positive|NaN"):
        read_foreign(tmp_path)


def test_a_weights_file_of_other_things_is_told_what_it_holds(tmp_path):
    """Not that it is a damaged safetensors file."""
    torch.save({0: torch.ones(2), "mean": torch.ones(3)}, tmp_path / "mean.pt")
    with pytest.raises(SAEFileError, match="none of the known formats.*its tensors are: mean"):
        open_any(tmp_path / "mean.pt")


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(1).expand(40_000, 4000), torch.zeros(2, 2, dtype=torch.complex64), torch.zeros(4, 4).to_sparse()],
    ids=["larger than the file", "complex", "sparse"],
)
def test_tensors_that_are_no_plain_numbers(tmp_path, tensor):
    torch.save({"encoder.weight": tensor}, tmp_path / "sae.pt")
    with pytest.raises(SAEFileError, match="the tensor 'encoder.weight' is"):
        read_foreign(tmp_path / "sae.pt")


@pytest.mark.parametrize(
    "name, hookpoint",
    [
        ("unet.up_blocks.1.attentions.1", "up_blocks.1.attentions.1"),
        ("sae_up_blocks.1.attentions.12_k32", "up_blocks.1.attentions.12"),
        ("mid_block.attentions.0", "mid_block.attentions.0"),
        ("unet.up_blocks.1.attentions.1.transformer_blocks.0.attn2", ""),
        ("up_blocks.1.attentions.12.proj_in", ""),
        ("vae.decoder.mid_block.attentions.0", ""),
        ("controlnet.down_blocks.2.attentions.1", ""),
    ],
)
def test_only_a_block_of_the_unet_itself_is_a_hookpoint(tmp_path, weights, name, hookpoint):
    assert read_foreign(write_saeuron(tmp_path / name, weights)).header.hookpoint == hookpoint


def test_the_place_tells_the_model_better_than_the_format(tmp_path, weights):
    """SAeUron's are of SD1.5, but the name is one of SDXL's."""
    assert read_foreign(write_saeuron(tmp_path / "mid.0", weights)).header.model_family == "SDXL"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers(tmp_path, weights, value):
    weights["W_dec"][0, 0] = value
    with pytest.raises(SAEFileError, match="W_dec holds NaN"):
        read_foreign(write_saeuron(tmp_path / "bad", weights))


def test_tensors_that_do_not_fit_together(tmp_path, weights):
    weights["W_dec"] = weights["W_dec"][:-1].contiguous()
    with pytest.raises(SAEFileError, match=r"W_dec should have the shape \(48, 12\), but has \(47, 12\)"):
        read_foreign(write_saeuron(tmp_path / "bad", weights))


def test_a_folder_with_several_saes_asks_which(tmp_path, weights):
    write_saeuron(tmp_path / "unet.up_blocks.1.attentions.1", weights)
    assert read_foreign(tmp_path).header.hookpoint == "up_blocks.1.attentions.1"
    write_saeuron(tmp_path / "unet.up_blocks.1.attentions.2", weights)
    with pytest.raises(SAEFileError, match="several SAEs.*attentions.1/sae.safetensors, .*attentions.2"):
        read_foreign(tmp_path)


def test_an_sae_is_found_below_a_file_of_other_things(tmp_path, weights):
    """As trainers leave them: their own state, and the SAE in a folder."""
    folder = write_saeuron(tmp_path / "unet.up_blocks.1.attentions.1", weights)
    torch.save({"global_step": 1}, tmp_path / "state.pt")
    assert find_weights(tmp_path) == folder / "sae.safetensors"


def test_a_folder_without_an_sae(tmp_path):
    with pytest.raises(SAEFileError, match="no SAE in a known format.*SAELens"):
        read_foreign(tmp_path)


def test_half_precision_is_read_to_fp32(tmp_path, weights):
    halves = {name: tensor.half() for name, tensor in weights.items()}
    sae = read_foreign(write_saeuron(tmp_path / "half", halves)).autoencoder
    assert {tensor.dtype for tensor in sae.state_dict().values()} == {torch.float32}


def test_decoding_with_a_norm_of_its_own_needs_the_vectors():
    sae = read_foreign(REFERENCES / "saelens_standard_layer_norm").autoencoder
    with pytest.raises(ValueError, match="needs the vectors"):
        sae.decode(torch.zeros(1, N))


def test_open_any_reads_foreign_files_and_refuses_the_rest_as_ever(tmp_path):
    sae, header, statistics = open_any(REFERENCES / "sparsify_topk" / "sae.safetensors")
    assert header.concepts == () and statistics.overall.shape == (1, 0)
    assert sae.config.k == K
    with pytest.raises(SAEFileError, match="does not exist"):
        open_any(tmp_path / "none.safetensors")
