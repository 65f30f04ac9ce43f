"""`sae-eraser train --extend` when something is wrong: one line says what and what to do."""

import re
import shutil
from pathlib import Path

import pytest

from pure.planted import HOOKPOINT, WIDTH, plant, write_cache
from pure.training_runs import QUICK, STEPS, train
from sae_eraser.sae_ops.autoencoder import SAEConfig, SparseAutoencoder
from sae_eraser.sae_ops.formats import no_statistics
from sae_eraser.sae_ops.sae_file import SAEHeader, load_sae, save_sae
from sae_eraser.training.cache.manifest import CacheSettings
from sae_eraser.training.cache.writer import CacheWriter


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return write_cache(tmp_path_factory.mktemp("planted") / "cache", plant(range(15)))


@pytest.fixture(scope="module")
def base(cache) -> Path:
    path = cache.parent / "base.safetensors"
    assert train(cache, path, *QUICK, "--groups", "object") == 0
    return path


def test_extending_by_nothing(cache, base, refused):
    message = refused(cache, "--extend", base, "--groups", "object")
    assert "nothing to add" in message


def test_extending_at_another_hookpoint(tmp_path, base, refused):
    planted = plant(range(15))
    other = "up_blocks.0.attentions.1"
    writer = CacheWriter(tmp_path / "other", CacheSettings("SD15", {other: WIDTH}, "output", {}, planted.images))
    writer.write_shard(0, {other: planted.maps}, planted.sigmas)
    assert HOOKPOINT in refused(tmp_path / "other", "--extend", base)
    message = refused(tmp_path / "other", "--extend", base, "--hookpoint", other)
    assert f"belongs to {HOOKPOINT}, not to {other}" in message


@pytest.mark.parametrize(
    "family, hooked, width, fault",
    [("SDXL", "output", WIDTH, "SD15.*SDXL"), ("SD15", "residual", WIDTH, "residual"), ("SD15", "output", 8, "16.* 8")],
)
def test_extending_an_sae_of_another_model(tmp_path, base, refused, family, hooked, width, fault):
    planted = plant(range(15))
    writer = CacheWriter(tmp_path / "other", CacheSettings(family, {HOOKPOINT: width}, hooked, {}, planted.images))
    writer.write_shard(0, {HOOKPOINT: planted.maps[..., :width]}, planted.sigmas)
    message = refused(tmp_path / "other", "--extend", base)
    assert re.search(fault, message), message


@pytest.mark.parametrize(
    "config, what", [(("groupmax", 2), "its groupmax"), (("relu", 2, "layer"), "its norm of every vector")]
)
def test_extending_an_sae_that_cannot_erase(cache, tmp_path, refused, config, what):
    sae = SparseAutoencoder(SAEConfig(WIDTH, 16, *config))
    save_sae(tmp_path / "other.safetensors", sae, SAEHeader(HOOKPOINT, "SD15", sae.config), no_statistics())
    message = refused(cache, "--extend", tmp_path / "other.safetensors")
    assert "cannot erase" in message and what in message


def test_extending_without_enough_free_latents(cache, tmp_path, refused):
    full = tmp_path / "full.safetensors"
    assert train(cache, full, *QUICK, "--latents", "4", "--groups", "object") == 0
    assert "2 concepts need as many latents, but there are 1 free latents" in refused(cache, "--extend", full)


def test_an_sae_that_tells_what_is_drawn_cannot_be_extended(cache, base, tmp_path, refused):
    both = write_cache(tmp_path / "both", plant(range(15)), branch="both")
    assert "branch uncond cannot be extended" in refused(both, "--extend", base, "--branch", "uncond")
    drawn = tmp_path / "drawn.safetensors"
    assert train(both, drawn, *QUICK, "--groups", "object", "--branch", "uncond") == 0
    assert "the branch uncond, not to the branch cond" in refused(both, "--extend", drawn)


def test_extending_with_another_size(cache, base, refused):
    message = refused(cache, "--extend", base, "--k", "3", "--activation", "topk")
    assert "leave out --k, --activation" in message


def test_extending_what_is_no_sae(cache, tmp_path, refused):
    (tmp_path / "text.safetensors").write_text("hello")
    assert "text.safetensors cannot be read" in refused(cache, "--extend", tmp_path / "text.safetensors")


def test_an_sae_can_be_extended_in_its_place(cache, base, tmp_path):
    path = shutil.copy(base, tmp_path / "sae.safetensors")
    assert train(cache, path, *STEPS, "--extend", path, "--overwrite") == 0
    assert len(load_sae(path)[1].concepts) == 5
