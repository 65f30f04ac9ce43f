"""Train SAE: a real training in a process of its own, stopped, taken up again, refused, and shown."""

import functools
import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import comfy.utils
import folder_paths
import pytest
import torch
from comfy import model_management
from comfy.model_management import InterruptProcessingException
from PIL import Image
from safetensors.torch import load_file

from checkout import ROOT
from pure.planted import plant, write_cache
from pure.sae_files import write_good_file
from sae_eraser.nodes.erase.erase_concepts import EraseConcepts
from sae_eraser.nodes.files.new_sae_files import name_in_lists, new_sae_path
from sae_eraser.nodes.train import command
from sae_eraser.nodes.train.curves import HEIGHT, WIDTH
from sae_eraser.nodes.train.train_sae import TrainSAE
from sae_eraser.sae_ops.sae_file import load_sae, read_header, save_sae
from sae_eraser.training.cli import command_line
from sae_eraser.training.config import DEFAULT_K, PRECISIONS
from sae_eraser.training.look_alikes import EARLY, NEARLY_ALL_WITH, NEARLY_ALL_WITHOUT
from with_comfyui.collecting import MID, UP, collector

QUICK = {"latents": 32, "k": 4, "unsupervised_steps": 10, "supervised_steps": 150, "vectors": 128, "maps": 16}


def inputs_of(node) -> dict:
    """Every input and its default."""
    found = node.GET_NODE_INFO_V1()["input"]
    found = found["required"] | found["optional"]
    return {name: (settings or {}).get("default") for name, (_, settings) in found.items()}


@pytest.fixture(scope="module")
def cache(world, tmp_path_factory) -> Path:
    """Of the small world, collected by the node; one of its shards is lost and one is damaged."""
    with pytest.MonkeyPatch.context() as patch:
        folder = collector(world, tmp_path_factory.mktemp("output"), patch)(seeds=12, batch_size=24)
    (folder / "shard-00001.safetensors").unlink()
    damaged = folder / "shard-00002.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    return folder


@pytest.fixture
def saes(pack, tmp_path, monkeypatch) -> Path:
    """Stands for models/sae."""
    return use_saes(tmp_path / "a folder" / "sae", monkeypatch)


def use_saes(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    patch.setitem(folder_paths.folder_names_and_paths, "sae", ([str(folder)], {".safetensors"}))
    return folder


def run(folder: Path, /, **changed):
    own = {"cache": str(folder), "name": "mine", "hookpoint": UP, "skip_bad_shards": True}
    return TrainSAE.execute(**(inputs_of(TrainSAE) | QUICK | own | changed))


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory):
    """A training that nothing disturbs: its file, what the node put out, and the moves of ComfyUI's bar."""
    moves: list[tuple] = []
    with pytest.MonkeyPatch.context() as patch:
        folder = use_saes(tmp_path_factory.mktemp("models") / "sae", patch)
        hook = lambda done, steps, preview, node_id: moves.append((done, steps, preview))  # noqa: E731
        patch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
        node = run(cache, name="sub/mine", groups="style, object")
    return folder / "sub" / "mine.safetensors", node, moves


@pytest.fixture
def train(cache, saes):
    """train(...) -> what the node puts out."""
    return functools.partial(run, cache)


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    """The command lines of all processes that nodes start."""
    lines, popen = [], command.subprocess.Popen

    def note(arguments, **options):
        lines.append(arguments)
        return popen(arguments, **options)

    monkeypatch.setattr(command.subprocess, "Popen", note)
    return lines


def test_a_cache_becomes_an_sae_that_erases(trained, world, sample):
    path, node, moves = trained
    name, sae = node.result
    assert Path(name) == Path("sub/mine.safetensors") and read_header(path) == sae.header
    assert (sae.header.hookpoint, sae.header.model_family) == (UP, "ShapeCanvas")
    assert [concept.name for concept in sae.header.concepts] == ["neon", "plain", "star", "ring"]
    assert (sae.header.autoencoder.n_latents, sae.header.training["vectors"]) == (32, 128)
    erased = EraseConcepts.execute(world.model, sae, "neon: 1.0", 0.0, 1.0, "scale", "both").result[0]
    assert sample(erased).isfinite().all()


def test_bar_curves_and_text_are_shown(trained):
    _, node, moves = trained
    assert moves[-1][:2] == (160, 160) and [done for done, *_ in moves] == sorted(done for done, *_ in moves)
    assert any(preview for *_, preview in moves)
    text, (picture,) = node.ui["text"][0], node.ui["images"]
    assert "Training without 2 bad shards" in text and "32 latents of width 128" in text and "{" not in text
    with Image.open(Path(folder_paths.get_temp_directory(), picture["subfolder"], picture["filename"])) as image:
        assert image.size == (3 * WIDTH, HEIGHT) and len(image.getcolors(100_000)) > 3


def test_a_cancelled_training_goes_on_to_the_same_bytes(trained, train, saes, monkeypatch):
    """Cancelled by ComfyUI's button early in the second phase."""

    def cancel(done, *anything, **more):
        if done > 10:
            model_management.interrupt_current_processing()

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", cancel)
    with pytest.raises(InterruptProcessingException):
        train(groups="style, object", checkpoint_minutes=0.0)
    assert not model_management.processing_interrupted()
    assert not (saes / "mine.safetensors").exists() and list((saes / "mine.training").glob("*.pt"))
    with pytest.raises(ValueError, match="unfinished training with other.*restart to begin anew, or another name"):
        train(groups="style, object", seed=1)
    seen: list[int] = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda done, *rest, **more: seen.append(done))
    train(groups="style, object")
    assert min(seen) > 10, "the first phase is not trained again"
    assert not (saes / "mine.training").exists()
    header, expected = read_header(saes / "mine.safetensors"), read_header(trained[0])
    assert header == expected
    for name, tensor in load_file(trained[0]).items():
        assert torch.equal(load_file(saes / "mine.safetensors")[name], tensor)


@pytest.mark.parametrize("use", [run, lambda path: TrainSAE.fingerprint_inputs(cache=path)])
def test_no_workflow_makes_windows_sign_in_at_another_computer(saes, use):
    for path in ("//server/share/cache", r"\\server\share\cache"):
        with pytest.raises(ValueError, match="names another computer.*Copy the files to this one"):
            use(path)


def test_no_group_is_an_option_of_the_command(train, saes, tmp_path):
    """Workflows are shared by strangers."""
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"the user's")
    with pytest.raises(ValueError, match="has no labels of a group"):
        train(groups=f"object, --out, {other}, --overwrite")
    assert other.read_bytes() == b"the user's"


def test_what_is_finished_is_not_trained_again(trained, train, saes, started, cache, tmp_path):
    saes.mkdir(parents=True)
    shutil.copy(trained[0], saes / "mine.safetensors")
    again = train(groups="style,object", overwrite=True)
    assert again.result[1].header == trained[1].result[1].header
    assert "trained like this before" in again.ui.as_dict()["text"][0]
    shorter = shutil.copytree(cache, tmp_path / "shorter")
    (shorter / "shard-00003.safetensors").unlink()
    same = {"groups": "style, object"}
    for changed in ({"groups": "style"}, *({**same, **other} for other in ({"seed": 1}, {"k": 3}, {"maps": 9}))):
        with pytest.raises(ValueError, match="mine.safetensors exists. Choose another name, or set overwrite"):
            train(**changed)
    with pytest.raises(ValueError, match="mine.safetensors exists"):
        train(**same, cache=str(shorter))
    assert not started


def test_what_was_trained_with_other_settings_of_the_command_is_not_taken_for_it(trained, train, saes, started):
    """The node has no input for these, and its own trainings have the defaults; nor does it extend an SAE."""
    saes.mkdir(parents=True)
    sae, header, statistics = load_sae(trained[0])
    assert header.training["precision"] in PRECISIONS
    for other in ({"guidance_weight": 0.0}, {"concept_latents": 1}, {"statistics_vectors": 10}, {"extended": {}}):
        save_sae(saes / "mine.safetensors", sae, replace(header, training=header.training | other), statistics)
        with pytest.raises(ValueError, match="mine.safetensors exists"):
            train(groups="style, object")
    for precision in PRECISIONS:  # which is the machine's
        made = header.training | {"precision": precision}
        save_sae(saes / "mine.safetensors", sae, replace(header, training=made), statistics)
        train(groups="style, object")
    assert not started


def test_look_alikes_are_spared_by_an_sae_for_which_it_is_asked(trained, saes, tmp_path):
    folder = write_cache(tmp_path / "cache", plant(range(8)))
    small = {"hookpoint": "", "k": 2, "groups": "object", "supervised_steps": 20, "spare_look_alikes": True}
    header = run(folder, **small, concept_weight=1.0).result[1].header
    assert (header.training["spare_look_alikes"], header.training["concept_weight"]) == (True, 1.0)
    assert "concepts.detection" in load_file(saes / "mine.safetensors")
    assert "concepts.detection" not in load_file(trained[0])
    with pytest.raises(ValueError, match="Leave out spare_look_alikes, or branch uncond"):
        run(folder, name="drawn", **small, branch="uncond")


def test_an_sae_from_before_a_setting_existed_is_not_trained_again(trained, train, saes, started):
    """It was trained by what is the default now."""
    saes.mkdir(parents=True)
    sae, header, statistics = load_sae(trained[0])
    older = {name: value for name, value in header.training.items() if name != "spare_look_alikes"}
    save_sae(saes / "mine.safetensors", sae, replace(header, training=older), statistics)
    train(groups="style, object")
    with pytest.raises(ValueError, match="mine.safetensors exists"):
        train(groups="style, object", spare_look_alikes=True)
    assert not started


def test_comfyui_runs_the_node_again_when_the_cache_has_changed(saes, tmp_path):
    folder = write_cache(tmp_path / "cache", plant(range(2)))
    inputs = {"cache": str(folder), "name": "mine", "k": 2}
    before = TrainSAE.fingerprint_inputs(**inputs)
    assert TrainSAE.fingerprint_inputs(**inputs) == before
    (folder / "shard-00001.json").unlink()
    shorter = TrainSAE.fingerprint_inputs(**inputs)
    linked = TrainSAE.fingerprint_inputs(cache=None, name="mine")
    assert all(one != other for one, other in itertools.combinations((before, shorter, linked), 2))


@pytest.mark.parametrize("change", ["deleted", "replaced", "trained otherwise"])
def test_comfyui_runs_the_node_again_when_the_file_is_not_as_it_was_left(trained, train, saes, change):
    """Once: the fingerprint before that run is the fingerprint after it. A run itself changes nothing."""
    saes.mkdir(parents=True)
    file, inputs = saes / "mine.safetensors", {"name": "mine", "groups": "style,object"}
    first = TrainSAE.fingerprint_inputs(**inputs)
    shutil.copy(trained[0], file)
    train(**inputs)
    assert TrainSAE.fingerprint_inputs(**inputs) == first
    if change == "deleted":
        file.unlink()
    elif change == "replaced":
        write_good_file(file)
    else:
        train(**{**inputs, "groups": "style, object"})
    found = TrainSAE.fingerprint_inputs(**inputs)
    again = TrainSAE.fingerprint_inputs(**inputs)
    assert first != found != again  # until it has run
    shutil.copy(trained[0], file)
    train(**inputs)
    assert TrainSAE.fingerprint_inputs(**inputs) == again


def test_a_linked_folder_of_models_sae_is_used(train, started, saes, tmp_path):
    """It may lie on another disk."""
    (tmp_path / "disk").mkdir()
    saes.mkdir(parents=True)
    (saes / "big").symlink_to(tmp_path / "disk", target_is_directory=True)
    (saes / "linked.safetensors").symlink_to(tmp_path / "disk" / "there.safetensors")
    assert new_sae_path("big/new") == saes / "big" / "new.safetensors"
    assert name_in_lists(new_sae_path("linked")) == "linked.safetensors"
    with pytest.raises(ValueError, match="no usable name"):
        new_sae_path("big/../../out")


@pytest.mark.parametrize("name", [".", "..", "big/..", "mine.", "...safetensors"])
def test_names_that_are_dots_or_end_in_one_are_refused(saes, name):
    with pytest.raises(ValueError, match="is no usable name for an SAE file"):
        new_sae_path(name)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"cache": "nowhere"}, "no cache 'nowhere' in .*sae_cache. It holds .*Collect Activations"),
        ({"cache": " "}, "no cache ''"),
        ({"hookpoint": ""}, f"several hookpoints. Write one as hookpoint: {MID}, {UP}"),
        ({"skip_bad_shards": False}, "shard-00001.safetensors is missing.* pass skip_bad_shards to train without"),
        ({"k": 33}, "k is 33"),
        ({"name": "../mine"}, "no usable name"),
        ({"name": " "}, "no usable name"),
        ({"name": "mine:x"}, "no usable name"),
        ({"name": "aux/mine"}, "no usable name"),
        ({"name": 300 * "a"}, "no usable name .* at most 200 in all"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_process_starts(train, started, changed, message):
    with pytest.raises(ValueError, match=message):
        train(**changed)
    assert not started


def test_caches_of_the_output_folder_go_by_their_names(cache, train, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(cache.parent.parent))
    with pytest.raises(ValueError, match="It holds: cache"):
        train(cache="cash")
    with pytest.raises(ValueError, match="nothing of 'mid'"):
        train(cache="cache", hookpoint="mid")


def test_the_shares_by_which_look_alikes_are_told_are_the_trainers(pack):
    _, settings = TrainSAE.GET_NODE_INFO_V1()["input"]["optional"]["spare_look_alikes"]
    assert f" than {100 * NEARLY_ALL_WITHOUT:g} % of " in settings["tooltip"]
    page = " ".join((ROOT / "web" / "docs" / "SAEEraser_TrainSAE.md").read_text("utf-8").split())
    assert f" than {100 * NEARLY_ALL_WITHOUT:g} % of the pictures of each other concept," in page
    assert f" more than {100 * (1 - NEARLY_ALL_WITH):g} % of the concept's own would not be found" in page
    assert "in the first quarter of the sampling" in page and EARLY == 0.25


def test_the_defaults_are_the_commands(pack):
    own = inputs_of(TrainSAE)
    theirs = vars(command_line("train").parse_args(["train", "my_cache", "--out", "x.safetensors"]))
    worked_out = {"hookpoint": "", "groups": "", "latents": 0, "learning_rate": 0.0}
    worked_out |= {"k": DEFAULT_K, "activation": "batchtopk"}
    assert own.keys() - theirs.keys() == {"name"}
    assert {name for name in own.keys() & theirs.keys() if theirs[name] is None} == {*worked_out}
    for name in own.keys() & theirs.keys() - {"cache"}:
        assert own[name] == (theirs | worked_out)[name], name
