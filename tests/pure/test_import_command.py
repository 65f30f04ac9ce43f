"""`sae-eraser import`: another tool's SAE becomes a file of ours."""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from checkout import ROOT
from pure.sae_files import write_good_file
from sae_eraser.sae_ops.formats import read_foreign
from sae_eraser.sae_ops.sae_file import load_sae
from sae_eraser.training.cli import main

SPARSIFY = Path(__file__).parent / "references" / "sparsify_topk"
OVERCOMPLETE = Path(__file__).parent / "references" / "overcomplete_topk"
PLACE = ("--hookpoint", "unet.up_blocks.1.attentions.1", "--model-family", "SD15")


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "sae" / "mine.safetensors"


def test_what_is_imported_encodes_as_before(out, capsys):
    assert main(["import", str(SPARSIFY), "--out", str(out), *PLACE]) == 0
    text = capsys.readouterr().out
    assert "imported from sparsify" in text and "SD15, up_blocks.1.attentions.1 (output)" in text
    expected = load_file(SPARSIFY / "expected.safetensors")
    sae, header, statistics = load_sae(out)
    torch.testing.assert_close(sae.encode(expected["x"]), expected["z"], rtol=0, atol=1e-5)
    torch.testing.assert_close(sae(expected["x"]), expected["x_hat"], rtol=0, atol=1e-5)
    assert (header.hookpoint, header.model_family, header.concepts) == ("up_blocks.1.attentions.1", "SD15", ())
    assert header.training["imported"] == {"format": "sparsify", "file": "sae.safetensors"}
    assert statistics.overall.shape == (1, 0)


@pytest.mark.parametrize("case", ["sparsify_groupmax", "saelens_standard_layer_norm", "saelens_topk_constant_norm"])
def test_what_only_other_tools_have_survives_the_file(out, case):
    source = SPARSIFY.parent / case
    assert main(["import", str(source), "--out", str(out), *PLACE]) == 0
    expected = load_file(source / "expected.safetensors")
    torch.testing.assert_close(load_sae(out)[0](expected["x"]), expected["x_hat"], rtol=0, atol=1e-5)
    assert load_sae(out)[1].autoencoder.unsupported


def test_a_file_alone_can_be_named(out):
    assert main(["import", str(SPARSIFY / "sae.safetensors"), "--out", str(out), *PLACE]) == 0


def test_what_the_files_leave_out_is_given(out):
    assert main(["import", str(OVERCOMPLETE), "--out", str(out), *PLACE, "--k", "5", "--hooked", "residual"]) == 0
    sae, header, _ = load_sae(out)
    expected = load_file(OVERCOMPLETE / "expected.safetensors")
    torch.testing.assert_close(sae(expected["x"]), expected["x_hat"], rtol=0, atol=1e-5)
    assert header.hooked == "residual"


def test_what_is_given_does_not_go_against_the_files(tmp_path, out, capsys):
    (tmp_path / "sae.safetensors").write_bytes((SPARSIFY / "sae.safetensors").read_bytes())
    (tmp_path / "cfg.json").write_text('{"k": 4}')
    command = ["import", str(tmp_path / "sae.safetensors"), "--out", str(out), *PLACE]
    assert main([*command, "--k", "7"]) == 1
    assert "say that k is 4, not 7. Leave out --k." in capsys.readouterr().err
    assert main([*command, "--k", "4"]) == 0


def test_a_setting_that_the_files_leave_empty_is_given(tmp_path, out):
    (tmp_path / "sae.safetensors").write_bytes((SPARSIFY / "sae.safetensors").read_bytes())
    (tmp_path / "cfg.json").write_text('{"k": null, "num_latents": null}')
    assert main(["import", str(tmp_path / "sae.safetensors"), "--out", str(out), *PLACE, "--k", "5"]) == 0
    assert load_sae(out)[0].config.k == 5


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), "--hookpoint"),
        (PLACE[:2], "--model-family"),
        ((*PLACE, "--settings", "class_params.pth"), "--concepts"),
    ],
)
def test_what_is_missing_is_asked_for(out, capsys, arguments, words):
    assert main(["import", str(SPARSIFY), "--out", str(out), *arguments]) == 1
    message = capsys.readouterr().err
    assert message.startswith("sae-eraser: ") and message.count("\n") == 1 and words in message
    assert not out.exists()


@pytest.mark.parametrize(
    "name, known",
    [
        ("SD1.5", "SD15"),
        ("SD 1.5", "SD15"),
        ("sd15", "SD15"),
        ("stable-diffusion-v1-5", "SD15"),
        ("SD2.1", "SD20"),
        ("stable-diffusion-xl", "SDXL"),
        ("stable-diffusion-xl-base-1.0", "SDXL"),
        ("flux.1-dev", "Flux"),
        ("Z-Image", "ZImage"),
    ],
)
def test_another_spelling_of_a_model_family_is_refused_with_comfyuis(out, capsys, name, known):
    """The nodes compare the names."""
    assert main(["import", str(SPARSIFY), "--out", str(out), *PLACE[:3], name]) == 1
    message = f"sae-eraser: ComfyUI calls the model family '{name}' {known}. Pass --model-family {known}.\n"
    assert capsys.readouterr().err == message and not out.exists()


def test_a_model_family_that_is_not_known_is_taken_with_a_note(out, capsys):
    assert main(["import", str(SPARSIFY), "--out", str(out), *PLACE[:3], "NewModel"]) == 0
    assert "Note: the model family NewModel is not known here." in capsys.readouterr().out
    assert load_sae(out)[1].model_family == "NewModel"
    assert main(["import", str(SPARSIFY), "--out", str(out), *PLACE, "--overwrite"]) == 0
    assert "Note" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [
        "mid_blok",
        "mid_blok.attentions.0",
        "mid_block",
        "up_blocks.1",
        "up_blocks.1.attention.1",
        "text_encoder.layers.8",
    ],
)
def test_a_hookpoint_that_no_model_can_have_is_refused_with_examples(out, capsys, name):
    assert main(["import", str(SPARSIFY), "--out", str(out), "--hookpoint", name, *PLACE[2:]]) == 1
    message = capsys.readouterr().err
    assert f"No model has a hookpoint '{name}'" in message and "e.g. up_blocks.1.attentions.1" in message
    assert not out.exists()


@pytest.mark.parametrize(
    "name",
    [
        "output_blocks.4.1",
        "diffusion_model.middle_block.1",
        "transformer.single_transformer_blocks.12",
        "double_blocks.3",
        "text_encoder_2.text_model.encoder.layers.30",
        "clip_l.transformer.text_model.encoder.layers.8",
    ],
)
def test_every_kind_of_hookpoint_can_be_given(out, name):
    assert main(["import", str(SPARSIFY), "--out", str(out), "--hookpoint", name, *PLACE[2:]]) == 0


def test_a_file_that_exists_is_kept(out, capsys):
    out.parent.mkdir()
    out.write_text("mine")
    assert main(["import", str(SPARSIFY), "--out", str(out), *PLACE]) == 1
    assert "exists" in capsys.readouterr().err and out.read_text() == "mine"
    assert main(["import", str(SPARSIFY), "--out", str(out), *PLACE, "--overwrite"]) == 0
    assert main(["import", str(SPARSIFY), "--out", str(out.parent), *PLACE]) == 1
    assert "is a folder" in capsys.readouterr().err


def test_a_name_that_comfyui_would_not_list_is_refused(out, capsys):
    assert main(["import", str(SPARSIFY), "--out", str(out.with_suffix(".v2")), *PLACE]) == 1
    assert "mine.v2. Name it mine.v2.safetensors" in capsys.readouterr().err
    assert not out.parent.exists()


def test_our_own_file_needs_no_import(out, tmp_path, capsys):
    assert main(["import", str(write_good_file(tmp_path / "sae.safetensors")), "--out", str(out), *PLACE]) == 1
    assert "already" in capsys.readouterr().err


def test_a_path_that_is_not_there_downloads_nothing(out, capsys, monkeypatch, tmp_path):
    """Names that no repository can have are never looked up, nor what is missing in a folder that is here."""
    hub = mock.Mock()
    hub.snapshot_download = lambda *anything, **more: pytest.fail("it downloads")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.chdir(tmp_path)
    Path("models", "sae").mkdir(parents=True)
    names = ("nowhere", "/no/such/folder", "./a/b", "../x/y", "_a/b", "a/.b", "a b/c", "models/sae/theirs.safetensors")
    for path in names:
        assert main(["import", path, "--out", str(out), *PLACE]) == 1
        assert f"{Path(path)} does not exist" in capsys.readouterr().err


def test_without_huggingface_hub_it_says_how_to_get_it(out, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["import", "owner/name", "--out", str(out), *PLACE]) == 1
    assert "pip install huggingface_hub" in capsys.readouterr().err


def test_a_download_that_breaks_off_is_said_in_a_line(out, capsys, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    httpx = pytest.importorskip("httpx")
    breaks = mock.Mock(side_effect=httpx.RemoteProtocolError("peer closed connection"))
    monkeypatch.setattr(hub, "snapshot_download", breaks)
    assert main(["import", "owner/name", "--out", str(out), *PLACE]) == 1
    assert "Hugging Face does not give it (peer closed connection)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "path, wanted, below",
    [
        ("owner/name", ["*.safetensors", "*.pt", "*.pth", "*.bin", "*.json"], ""),
        ("owner/name/mid", ["mid/*.safetensors", "mid/*.pt", "mid/*.pth", "mid/*.bin", "mid/*.json"], "mid"),
        ("owner/name/mid/sae.pt", ["mid/sae.pt", "mid/*.json"], "mid/sae.pt"),
        ("owner/name.pt", ["*.safetensors", "*.pt", "*.pth", "*.bin", "*.json"], ""),
        ("owner/name/sae.safetensors", ["sae.safetensors", "*.json"], "sae.safetensors"),
    ],
)
def test_only_what_is_meant_is_downloaded(tmp_path, out, capsys, monkeypatch, path, wanted, below):
    hub = pytest.importorskip("huggingface_hub")
    download = mock.Mock(return_value=str(tmp_path))
    monkeypatch.setattr(hub, "snapshot_download", download)
    assert main(["import", path, "--out", str(out), *PLACE]) == 1
    download.assert_called_once_with("/".join(path.split("/")[:2]), allow_patterns=wanted)
    assert str(tmp_path / below) in capsys.readouterr().err


def run_offline(home: Path, *arguments: str) -> subprocess.CompletedProcess:
    """With huggingface_hub's own cache in `home` and no network."""
    pytest.importorskip("huggingface_hub")
    command = [sys.executable, str(ROOT / "training"), "import", *arguments]
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("inner", ["", "/", "/sae.safetensors"])
def test_a_repository_id_is_looked_up_on_hugging_face(tmp_path, out, inner):
    """A repository with a folder for each block, downloaded before."""
    repository = tmp_path / "hub" / "models--owner--saes"
    folder = repository / "snapshots" / ("0" * 40) / "unet.mid_block.attentions.0"
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for path in SPARSIFY.glob("[cs]*"):
        (folder / path.name).write_bytes(path.read_bytes())
    path = "owner/saes/unet.mid_block.attentions.0" + inner
    run = run_offline(tmp_path, path, "--out", str(out), "--model-family", "SD15")
    assert run.returncode == 0, run.stderr
    assert torch.equal(load_sae(out)[0].W_enc, read_foreign(SPARSIFY).autoencoder.W_enc)
    assert load_sae(out)[1].hookpoint == "mid_block.attentions.0"


def test_a_repository_that_cannot_be_had(tmp_path, out):
    run = run_offline(tmp_path, "owner/other", "--out", str(out))
    assert run.returncode == 1
    assert "owner/other does not exist here, and Hugging Face does not give it" in run.stderr
    assert "Traceback" not in run.stderr


def test_info_shows_foreign_files(capsys):
    assert main(["info", str(SPARSIFY)]) == 0
    text = capsys.readouterr().out
    assert "sparsify, to be imported" in text and "imported from" not in text
    assert "48 latents of width 12, topk, k = 5" in text
    assert main(["info", str(SPARSIFY.parent / "saelens_jumprelu")]) == 0
    assert "jumprelu\n" in capsys.readouterr().out  # which has no k
    assert f'to be imported with: sae-eraser import "{SPARSIFY}" --out FILE' in text  # paths may hold spaces
    assert main(["info", str(OVERCOMPLETE)]) == 1
    assert "--k" in capsys.readouterr().err
