"""Training with torchrun: two processes (gloo, on the CPU) do what one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from checkout import ROOT
from pure.planted import HOOKPOINT, WIDTH, plant
from pure.two_processes import complaint, first_latents, first_step, in_two_processes, training
from sae_eraser.sae_ops.sae_file import load_sae, read_header
from sae_eraser.training import distributed
from sae_eraser.training.cache.manifest import CacheSettings
from sae_eraser.training.cache.writer import CacheWriter

OPTIONS = ("--latents", "32", "--k", "2", "--unsupervised-steps", "8", "--supervised-steps", "8", "--vectors", "512")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Of its four shards one is damaged, which only its checksum tells."""
    folder = tmp_path_factory.mktemp("planted") / "cache"
    planted = plant(range(30))
    settings = CacheSettings("SD15", {HOOKPOINT: WIDTH}, "output", {}, planted.images, images_per_shard=45)
    writer = CacheWriter(folder, settings)
    for shard in range(4):
        images = slice(45 * shard, 45 * shard + 45)
        writer.write_shard(shard, {HOOKPOINT: planted.maps[images]}, planted.sigmas[images])
    damaged = bytearray((folder / "shard-00002.safetensors").read_bytes())
    damaged[-3000:] = bytes(3000)
    (folder / "shard-00002.safetensors").write_bytes(damaged)
    return folder


def test_on_gpus_what_is_on_the_cpu_is_summed_too(monkeypatch):
    """As the vectors are of which a new SAE is made; no GPU is needed to see that nccl alone would not do that."""
    started = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.distributed, "init_process_group", started.append)
    distributed.start()
    backends = torch.distributed.distributed_c10d.BackendConfig(started[0]).get_device_backend_map()
    assert backends == {"cpu": "gloo", "cuda": "nccl"}


@pytest.mark.parametrize("activation, k, loud", [("topk", 3, 0), ("batchtopk", 3, 1), ("batchtopk", 1, 4)])
def test_two_processes_keep_the_latents_that_one_keeps(activation, k, loud):
    """Also where one vector, which only one of them sees, takes more than its share of the whole batch's k."""
    alone = first_latents(activation, k, loud)
    shares = in_two_processes(first_latents, activation, k, loud)
    assert {vector % 2 for vector, *_ in shares[0]} == {0} and {vector % 2 for vector, *_ in shares[1]} == {1}
    for (*place, value), (*expected_place, expected) in zip(sorted(shares[0] + shares[1]), sorted(alone), strict=True):
        assert place == expected_place
        assert value == pytest.approx(expected, rel=1e-4)
    if activation == "batchtopk":
        assert len(shares[0]) != len(shares[1])


@pytest.mark.parametrize("size, divisible", [(None, None), (5, 4)])
@pytest.mark.parametrize("phase", ["reconstruct", "supervise"])
def test_two_processes_make_the_step_that_one_makes(phase, size, divisible):
    """Gradients to 1e-4 of the largest. What two cannot divide is as if it had not been there."""
    gradients, numbers, silent = first_step(phase, divisible)
    for found_gradients, found_numbers, found_silent in in_two_processes(first_step, phase, size):
        for name, rows in gradients.items():
            gradient, found = torch.tensor(rows), torch.tensor(found_gradients[name])
            torch.testing.assert_close(found, gradient, rtol=0, atol=1e-4 * gradient.abs().max().item(), msg=name)
        assert found_numbers == pytest.approx(numbers, rel=1e-4)
        assert found_silent == silent


def assert_same_sae(path: Path, expected: Path) -> None:
    """To what Adam makes of rounding errors in 16 steps: W_dec to 1e-4, numbers to 0.002."""
    (sae, header, _), (sae_expected, header_expected, _) = load_sae(path), load_sae(expected)
    assert (sae.W_dec - sae_expected.W_dec).norm() < 1e-4 * sae_expected.W_dec.norm()
    assert header.training["images"] == header_expected.training["images"] == 135
    assert header.training["validation"] == pytest.approx(header_expected.training["validation"], abs=0.002)
    for concept, concept_expected in zip(header.concepts, header_expected.concepts, strict=True):
        assert (concept.name, concept.latents) == (concept_expected.name, concept_expected.latents)
        assert concept.multiplier == pytest.approx(concept_expected.multiplier, rel=0.002)
        assert concept.facts == pytest.approx(concept_expected.facts, abs=0.02)


def test_two_processes_train_the_sae_that_one_trains_and_the_first_of_them_writes(cache, tmp_path):
    """Without the shard that is damaged, which all have to find out."""
    options = (*OPTIONS, "--precision", "fp32", "--skip-bad-shards")
    alone, both = tmp_path / "alone.safetensors", tmp_path / "both.safetensors"
    assert training(cache, alone, *options)[0] == 0
    (status, written), (other_status, other_written) = in_two_processes(training, cache, both, *options)
    assert status == other_status == 0
    assert written[-1] == "both.safetensors" and "100000000.pt" in written
    assert other_written == []
    assert_same_sae(both, alone)


def test_what_is_wrong_stops_both_processes(cache, tmp_path):
    assert in_two_processes(training, cache, tmp_path / "sae.safetensors", *OPTIONS) == [(1, []), (1, [])]


def test_torchrun_runs_the_command(cache, tmp_path):
    """What was made is said once. matplotlib is kept away, since it takes longer than the training."""
    (tmp_path / "matplotlib.py").write_text("raise ImportError")
    out = tmp_path / "models" / "sae.safetensors"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["train", cache, "--out", out, *OPTIONS, "--activation", "topk", "--skip-bad-shards"]
    environment = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{tmp_path}"}
    run = subprocess.run(
        [*torchrun, ROOT / "training" / "__main__.py", *command],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("32 latents of width 16") == 1
    assert [path.name for path in out.parent.iterdir()] == ["sae.safetensors"]
    assert read_header(out).training["images"] == 135


@pytest.mark.parametrize("option", ["--maps", "--vectors"])
def test_a_step_that_leaves_a_process_nothing_is_refused_by_both(cache, tmp_path, option):
    options = (*OPTIONS, "--skip-bad-shards", option, "1")
    said = in_two_processes(complaint, cache, tmp_path / "sae.safetensors", *options)
    for message in said:
        assert "2 processes share each step, but it may have 1" in message and "Start fewer processes" in message
