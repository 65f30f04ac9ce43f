"""`sae-eraser export`: other tools read what is written and compute the same with it.

The tools themselves answer where `make bench` has installed them in .venv-bench; the rest is checked without.
"""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkout import ROOT
from pure.random_sae import random_sae, random_statistics
from pure.sae_files import header_of
from sae_eraser.sae_ops.autoencoder import SAEConfig, SparseAutoencoder
from sae_eraser.sae_ops.formats import read_foreign
from sae_eraser.sae_ops.sae_file import save_sae
from sae_eraser.training.cli import main

PEERS = ROOT / ".venv-bench" / "bin" / "python"
EXPORTED = [
    ("saelens", "relu"),
    ("saelens", "topk"),
    ("saelens", "batchtopk"),
    ("saelens", "jumprelu"),
    ("sparsify", "topk"),
    ("sparsify", "groupmax"),
]
ASK_THEM = """
import sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from sae_lens import SAE
from sparsify import SparseCoder

x = load_file(sys.argv[1])["x"]
for folder in map(Path, sys.argv[2:]):
    if (folder / "sae_weights.safetensors").exists():
        sae = SAE.load_from_disk(folder)
        z = sae.encode(x)
        x_hat = sae.decode(z)
    else:
        sae = SparseCoder.load_from_disk(folder)
        values, indices, _ = sae.encode(x)
        z = torch.zeros(len(x), sae.num_latents).scatter(1, indices, values)
        x_hat = sae.decode(values, indices)
    save_file({"z": z.detach(), "x_hat": x_hat.detach()}, folder / "answer.safetensors")
"""


def write(path: Path, activation: str) -> SparseAutoencoder:
    sae = random_sae(activation)
    save_sae(path, sae, header_of(sae), random_statistics())
    return sae


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(40, 12, generator=torch.Generator().manual_seed(3))


def export(tmp_path: Path, to: str, activation: str) -> tuple[SparseAutoencoder, Path]:
    sae = write(tmp_path / "sae.safetensors", activation)
    folder = tmp_path / f"{to}_{activation}"
    assert main(["export", str(tmp_path / "sae.safetensors"), "--to", to, "--out", str(folder)]) == 0
    return sae, folder


@pytest.mark.skipif(not PEERS.exists(), reason="the tools are not installed: make .venv-bench/.ready")
def test_the_tools_compute_the_same(tmp_path, x):
    save_file({"x": x}, tmp_path / "x.safetensors")
    saes = [export(tmp_path, to, activation) for to, activation in EXPORTED]
    command = [PEERS, "-c", ASK_THEM, tmp_path / "x.safetensors", *(folder for _, folder in saes)]
    environment = os.environ | {"SPARSIFY_DISABLE_TRITON": "1", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    for sae, folder in saes:
        answer = load_file(folder / "answer.safetensors")
        torch.testing.assert_close(answer["z"], sae.encode(x), rtol=0, atol=1e-5)
        torch.testing.assert_close(answer["x_hat"], sae(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("to, activation", EXPORTED)
def test_what_is_exported_comes_back_by_import(tmp_path, x, to, activation):
    sae, folder = export(tmp_path, to, activation)
    foreign = read_foreign(folder)
    torch.testing.assert_close(foreign.autoencoder.encode(x), sae.encode(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(foreign.autoencoder(x), sae(x), rtol=0, atol=1e-5)
    header = header_of(sae)
    assert (foreign.header.hookpoint, foreign.header.model_family) == (header.hookpoint, header.model_family)
    assert foreign.header.hooked == header.hooked == "residual"


@pytest.mark.parametrize("hookpoint", ["single_transformer_blocks.7", "text_encoder_2.text_model.encoder.layers.3"])
def test_blocks_of_other_models_than_unets_come_back_too(tmp_path, hookpoint):
    sae = random_sae("topk")
    header = replace(header_of(sae), hookpoint=hookpoint, model_family="Flux")
    save_sae(tmp_path / "sae.safetensors", sae, header, random_statistics())
    folder = tmp_path / "mid_block.attentions.0"
    assert main(["export", str(tmp_path / "sae.safetensors"), "--to", "saelens", "--out", str(folder)]) == 0
    foreign = read_foreign(folder).header
    assert (foreign.hookpoint, foreign.model_family) == (hookpoint, "Flux")


def test_a_threshold_becomes_jumprelu_in_saelens(tmp_path):
    sae, folder = export(tmp_path, "saelens", "batchtopk")
    assert json.loads((folder / "cfg.json").read_text())["architecture"] == "jumprelu"
    assert torch.equal(load_file(folder / "sae_weights.safetensors")["threshold"], sae.threshold.expand(24))


def test_sparsify_is_told_topk_instead_of_a_threshold_and_the_user_so(tmp_path, x, capsys):
    sae, folder = export(tmp_path, "sparsify", "batchtopk")
    assert "warning: sparsify knows no threshold; it will keep the 6 largest" in capsys.readouterr().out
    as_topk = SparseAutoencoder(replace(sae.config, activation="topk"))
    as_topk.load_state_dict(sae.state_dict())
    torch.testing.assert_close(read_foreign(folder).autoencoder.encode(x), as_topk.encode(x), rtol=0, atol=1e-5)


def test_only_batchtopk_is_warned_about(tmp_path, capsys):
    export(tmp_path, "sparsify", "topk")
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize("to, activation", [("sparsify", "relu"), ("sparsify", "jumprelu"), ("saelens", "groupmax")])
def test_what_they_lack_is_refused(tmp_path, capsys, to, activation):
    write(tmp_path / "sae.safetensors", activation)
    assert main(["export", str(tmp_path / "sae.safetensors"), "--to", to, "--out", str(tmp_path / "out")]) == 1
    assert f"no {activation}. Choose" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("input_norm", ["layer", "length"])
def test_norms_of_every_vector_are_saelens_own(tmp_path, x, capsys, input_norm):
    sae = SparseAutoencoder(SAEConfig(12, 24, "topk", 6, input_norm)).requires_grad_(False)
    sae.load_state_dict(random_sae("topk").state_dict())
    save_sae(tmp_path / "sae.safetensors", sae, header_of(sae), random_statistics())
    arguments = ["export", str(tmp_path / "sae.safetensors"), "--out", str(tmp_path / "out"), "--to"]
    assert main([*arguments, "sparsify"]) == 1
    assert "no normalisation of each vector" in capsys.readouterr().err
    assert main([*arguments, "saelens"]) == 0
    torch.testing.assert_close(read_foreign(tmp_path / "out").autoencoder(x), sae(x), rtol=0, atol=1e-5)


def test_a_file_is_no_folder_to_export_to(tmp_path, capsys):
    write(tmp_path / "sae.safetensors", "topk")
    (tmp_path / "file").touch()
    assert main(["export", str(tmp_path / "sae.safetensors"), "--to", "saelens", "--out", str(tmp_path / "file")]) == 1
    assert "is a file, but --out must be a folder" in capsys.readouterr().err


def test_an_export_that_exists_is_kept(tmp_path, capsys):
    _, folder = export(tmp_path, "saelens", "topk")
    arguments = ["export", str(tmp_path / "sae.safetensors"), "--to", "saelens", "--out", str(folder)]
    assert main(arguments) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


@pytest.mark.parametrize("to", ["saelens", "sparsify"])
def test_an_sae_of_ours_is_not_replaced_even_if_asked_to(to, tmp_path, capsys):
    write(tmp_path / "sae.safetensors", "topk")
    before = (tmp_path / "sae.safetensors").read_bytes()
    arguments = ["export", str(tmp_path / "sae.safetensors"), "--to", to, "--out", str(tmp_path), "--overwrite"]
    assert main(arguments) == 1
    assert "is an SAE of ours, whose concepts no other format has. Choose another --out" in capsys.readouterr().err
    assert (tmp_path / "sae.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["sae.safetensors"]


def test_another_tools_weights_do_not_stay_beside_new_settings(tmp_path, capsys):
    sae, folder = export(tmp_path, "saelens", "topk")
    arguments = ["export", str(tmp_path / "sae.safetensors"), "--to", "sparsify", "--out", str(folder)]
    (folder / "cfg.json").unlink()
    assert main(arguments) == 1
    assert "--overwrite" in capsys.readouterr().err and (folder / "sae_weights.safetensors").exists()
    assert main([*arguments, "--overwrite"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["cfg.json", "sae.safetensors"]
    assert read_foreign(folder).format == "sparsify"
