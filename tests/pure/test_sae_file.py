"""The SAE file: what is written comes back."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pure.random_sae import random_sae, random_statistics
from pure.sae_files import header_of, rewrite, write_good_file
from sae_eraser.sae_ops import sae_file
from sae_eraser.sae_ops.autoencoder import ACTIVATIONS
from sae_eraser.sae_ops.concepts import Concept
from sae_eraser.sae_ops.sae_file import load_sae, read_header, save_sae


@pytest.fixture
def path(tmp_path) -> Path:
    return write_good_file(tmp_path / "good.safetensors")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_saved_comes_back(tmp_path, activation):
    sae, statistics = random_sae(activation), random_statistics()
    statistics = replace(statistics, detection=2 * statistics.overall, positions=torch.tensor(64.0))
    save_sae(tmp_path / "sae.safetensors", sae, header_of(sae), statistics)
    loaded, header, loaded_statistics = load_sae(tmp_path / "sae.safetensors")
    assert header == header_of(sae)
    assert loaded.state_dict().keys() == sae.state_dict().keys()
    for name, tensor in sae.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    for name in ("sigmas", "with_concept", "background", "overall", "detection", "positions"):
        assert torch.equal(getattr(loaded_statistics, name), getattr(statistics, name)), name
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_file_that_spares_no_look_alikes_has_nothing_for_it(path):
    rewrite(path, {"concepts.detection": None, "concepts.positions": None})
    _, _, statistics = load_sae(path)
    assert statistics.detection is None and statistics.positions is None
    save_sae(path, random_sae("batchtopk"), read_header(path), statistics)
    assert not {"concepts.detection", "concepts.positions"} & load_file(path).keys()


def test_an_sae_without_concepts_can_be_saved_and_loaded(tmp_path):
    sae = random_sae()
    save_sae(tmp_path / "bare.safetensors", sae, replace(header_of(sae), concepts=()), random_statistics(()))
    assert load_sae(tmp_path / "bare.safetensors")[1].concepts == ()


def test_a_concept_keeps_its_name_letter_for_letter(tmp_path):
    sae = random_sae()
    header = replace(header_of(sae), concepts=(Concept("Étoile 星: “late”", "style, a", (0,)),))
    save_sae(tmp_path / "sae.safetensors", sae, header, random_statistics(header.concepts))
    assert read_header(tmp_path / "sae.safetensors") == header


def test_equal_saes_give_equal_bytes(path, tmp_path):
    assert write_good_file(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_the_header_is_read_without_the_tensors(path):
    rewrite(path, {"W_enc": None, "W_dec": None})
    assert read_header(path) == header_of(random_sae("batchtopk"))


def test_an_sae_in_half_precision_is_loaded_in_fp32(path):
    rewrite(path, {"W_enc": load_file(path)["W_enc"].half()})
    assert load_sae(path)[0].W_enc.dtype == torch.float32


def test_a_full_disk_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def full(tensors, part, metadata):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sae_file, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_sae(path, random_sae("relu"), header_of(random_sae("relu")), random_statistics())
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_others_may_read_the_file(path):
    """safetensors alone would let only its owner read it; a server often runs as somebody else."""
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
