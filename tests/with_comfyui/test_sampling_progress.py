"""What Collect Activations says while it runs."""

import re
from types import SimpleNamespace

import comfy.utils
import pytest
from comfy_api.latest._io import Hidden, HiddenHolder

from sae_eraser.nodes.collect.collect_activations import CollectActivations
from sae_eraser.nodes.sample import sampling_progress
from sae_eraser.nodes.sample.sampling_progress import PromptServer, size_text
from with_comfyui.collecting import collector
from with_comfyui.sampling import with_probe


@pytest.fixture
def collect(world, tmp_path, monkeypatch):
    return collector(world, tmp_path, monkeypatch)


class Texts(list):
    """A PromptServer that keeps the texts it is to show at nodes."""

    def send_progress_text(self, text, node_id):
        assert node_id == "7"
        self.append(text)


@pytest.fixture
def texts(monkeypatch) -> Texts:
    kept = Texts()
    monkeypatch.setattr(PromptServer, "instance", kept, raising=False)
    monkeypatch.setattr(CollectActivations, "hidden", HiddenHolder.from_dict({Hidden.unique_id: "7"}))
    return kept


def test_it_says_how_large_the_cache_becomes_and_how_far_it_is(collect, texts, monkeypatch):
    bars = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda done, images, preview, node_id: bars.append((done, images))
    )
    folder = collect(width=128, height=128)
    assert [text.split(" pictures")[0] for text in texts] == [f"{done} of 8" for done in range(1, 9)]
    assert (bars[0], bars[-1]) == ((1, 8), (8, 8))
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e3
    for text in texts:
        said = re.search(r" pictures, ([0-9.]+) kB in all, [0-9:]+ left$", text)
        assert float(said[1]) == pytest.approx(size, rel=0.01)
    assert texts[-1].endswith(" 00:00 left")


def test_each_machine_speaks_of_its_own_share(collect, texts):
    collect(shard="2/2", width=128, height=128)
    assert [text.split(" in all")[0] for text in texts] == [
        f"{done} of 4 pictures, {4 * 2 * 2 * 64 * 128 * 2 / 1e3 + 0.03:.1f} kB" for done in (1, 2, 3, 4)
    ]


def test_the_time_left_is_what_the_rest_takes_at_the_same_pace(collect, texts, world, monkeypatch):
    """On a clock that moves a minute with every call of the model, two of which make a batch."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(sampling_progress, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def tick(*arguments):
        clock.now += 60

    collect(model=with_probe(world.model, tick))
    assert [text.split(", ")[-1] for text in texts] == [
        "06:00 left",
        "06:40 left",
        "03:36 left",
        "02:40 left",
        "00:00 left",
    ]


def test_sizes_are_written_for_people():
    assert [size_text(size) for size in (0, 949_000, 999_000_000, 1_000_000_000, 27_460_000_000)] == [
        "0.0 kB",
        "949.0 kB",
        "999.0 MB",
        "1.0 GB",
        "27.5 GB",
    ]
