"""What the dropdowns list of models/sae, and how the page recognises a file."""

import json
from pathlib import Path

import folder_paths
import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_eraser.nodes.erase.concept_inputs import sae_input
from sae_eraser.nodes.erase.erase_concept import EraseConcept
from sae_eraser.nodes.erase.erase_concept_from_text import EraseConceptFromText
from sae_eraser.nodes.erase.erase_concept_hook import EraseConceptHook
from sae_eraser.nodes.erase.steer_concept import SteerConcept
from sae_eraser.nodes.files import sae_files
from sae_eraser.nodes.files.load_sae import LoadSAE
from sae_eraser.nodes.files.sae_files import content_id, list_erasing_saes, list_origins, list_saes, open_sae
from sae_eraser.nodes.files.sae_info import SAEInfo
from sae_eraser.sae_ops.concepts import Concept, find_concept
from with_comfyui.random_files import CONCEPTS, write_random_sae

MID = "mid_block.attentions.0"


@pytest.fixture
def folder(pack, tmp_path, monkeypatch) -> Path:
    """Stands for models/sae."""
    _, suffixes = folder_paths.folder_names_and_paths["sae"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sae", ([str(tmp_path)], suffixes))
    return tmp_path


def test_concepts_are_listed_group_by_group(folder):
    write_random_sae(folder / "a.safetensors", MID)
    assert list_saes() == {"a.safetensors": ("disc", "box", "silent", "wavy", "grainy")}


def test_each_of_many_files_is_read_once(folder, monkeypatch):
    write_random_sae(folder / "0.safetensors", MID)
    for number in range(1, 600):
        (folder / f"{number}.safetensors").hardlink_to(folder / "0.safetensors")
    assert len(list_saes()) == 600
    monkeypatch.setattr(sae_files, "read_header", None)
    assert len(list_saes()) == 600


def test_what_cannot_erase_is_not_offered_for_erasing(folder):
    write_random_sae(folder / "a.safetensors", MID)
    write_random_sae(folder / "drawn.safetensors", MID, branch="uncond")
    assert list(list_saes()) == ["a.safetensors", "drawn.safetensors"]
    assert list(list_erasing_saes()) == ["a.safetensors"]
    (offered,) = sae_input("").as_dict()["options"]
    assert offered["key"] == "a.safetensors"


def test_namesakes_are_told_apart_and_can_be_chosen_as_listed(folder):
    concepts = (*CONCEPTS[:-1], Concept("Wavy", "object", (9,)))
    write_random_sae(folder / "a.safetensors", MID, concepts=concepts)
    (listed,) = list_saes().values()
    assert listed == ("disc", "box", "object: Wavy", "style: wavy", "grainy")
    header = open_sae("a.safetensors").header
    assert [concepts[find_concept(header.concepts, label)].group for label in listed] == 3 * ["object"] + 2 * ["style"]


def test_the_page_is_told_which_file_it_is_and_where_to_get_it(folder):
    write_random_sae(folder / "a.safetensors", MID, training={"url": "https://example.org/a.safetensors"})
    write_random_sae(folder / "b.safetensors", MID)
    told = LoadSAE.GET_NODE_INFO_V1()["input"]["required"]["sae_name"][1]["sae_origins"]
    assert told == list_origins()
    assert told["a.safetensors"]["url"] == "https://example.org/a.safetensors"
    assert "url" not in told["b.safetensors"]


def test_another_training_has_another_id_and_a_copy_has_the_same(folder):
    write_random_sae(folder / "a.safetensors", MID)
    (folder / "copy.safetensors").write_bytes((folder / "a.safetensors").read_bytes())
    write_random_sae(folder / "other.safetensors", MID, seed=1)
    a, copy, other = (content_id(folder / f"{name}.safetensors") for name in ("a", "copy", "other"))
    assert a == copy != other
    assert (folder / "a.safetensors").stat().st_size == (folder / "other.safetensors").stat().st_size
    assert len(a) == 12


def test_a_file_trained_anew_under_its_name_is_seen(folder):
    write_random_sae(folder / "a.safetensors", MID)
    before = list_origins()
    write_random_sae(folder / "a.safetensors", MID, seed=1, concepts=CONCEPTS[:2])
    assert list_origins() != before
    assert list_saes() == {"a.safetensors": ("disc", "box")}


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_short_files_have_ids(tmp_path, size):
    (tmp_path / "a").write_bytes(b"x" * size)
    assert len(content_id(tmp_path / "a")) == 12


def write_odd_files(folder: Path) -> None:
    """What may lie in such a folder and is no SAE."""
    torch.save({0: torch.ones(2)}, folder / "numbers.pt")
    write_random_sae(folder / "nested.safetensors", MID)
    save_file(load_file(folder / "nested.safetensors"), folder / "nested.safetensors", {"sae_eraser": "[" * 100_000})
    (folder / "sub").mkdir()
    torch.save({"encoder.weight": torch.ones(4, 4)}, folder / "sub" / "weights.pt")
    (folder / "sub" / "config.json").write_text("[" * 100_000)


@pytest.mark.parametrize("node", [LoadSAE, EraseConcept])
def test_whatever_lies_in_the_folder_the_other_files_are_listed(folder, node):
    write_random_sae(folder / "a.safetensors", MID)
    write_odd_files(folder)
    node.GET_NODE_INFO_V1()
    assert list(list_saes()) == ["a.safetensors"]


def test_a_file_that_is_no_sae_is_looked_at_once(folder, monkeypatch):
    write_odd_files(folder)
    list_saes()
    monkeypatch.setattr(sae_files, "recognise", None)
    monkeypatch.setattr(sae_files, "is_sae_file", None)
    assert list_saes() == {}


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_damaged_file_is_warned_of_once_for_each_of_its_states(folder, caplog, suffix):
    whole, file = folder / "whole.safetensors", folder / f"half.{suffix}"
    write_random_sae(whole, MID)
    if suffix == "pt":
        torch.save({"weights": torch.ones(99, 99)}, folder / "whole.pt")
        whole = folder / "whole.pt"
    for part in (3, 2):
        file.write_bytes(whole.read_bytes()[: whole.stat().st_size // part])
        caplog.clear()
        assert file.name not in list_saes() | list_saes() | list_erasing_saes()
        (warning,) = caplog.messages
        assert f"{file.name} is not listed: {file} " in warning and "again" in warning
    file.write_bytes(whole.read_bytes())
    caplog.clear()
    list_saes()
    assert caplog.messages == []


def test_whole_files_of_something_else_are_left_out_without_a_word(folder, caplog):
    save_file({"weights": torch.ones(4, 4)}, folder / "lora.safetensors")
    torch.save({"cat": {"percentile": 99.9, "multiplier": -1.0}}, folder / "class_params.pth")
    torch.save({0: torch.ones(2)}, folder / "numbers.pt")
    assert list_saes() == {} and caplog.messages == []


def test_what_describes_another_tools_sae_is_asked_for_once_and_read_when_it_comes_or_changes(folder, caplog):
    weights = {"W_enc": torch.randn(8, 32), "b_enc": torch.zeros(32), "W_dec": torch.randn(32, 8)}
    save_file(weights | {"b_dec": torch.zeros(8)}, folder / "sae_weights.safetensors")
    assert list_saes() == list_saes() == list_erasing_saes() == {}
    (warning,) = caplog.messages
    assert "sae_weights.safetensors is another tool's SAE, without what describes it. Put the cfg.json or" in warning
    place = {"hook_name": MID, "sae_eraser_model_family": "ShapeCanvas"}
    settings = {"d_sae": 32, "d_in": 8, "architecture": "standard", "metadata": place}
    (folder / "cfg.json").write_text(json.dumps(settings))
    (name,) = list_saes()
    assert open_sae(name).autoencoder.config.activation == "relu"
    before = LoadSAE.fingerprint_inputs(name)
    (folder / "cfg.json").write_text(json.dumps(settings | {"architecture": "topk", "k": 4}))
    assert open_sae(name).autoencoder.config.activation == "topk"
    assert LoadSAE.fingerprint_inputs(name) != before


@pytest.mark.parametrize("node", [EraseConcept, SteerConcept, EraseConceptHook, EraseConceptFromText])
def test_a_file_that_was_trained_anew_is_used_by_every_node(folder, node):
    write_random_sae(folder / "a.safetensors", MID)
    choice = {"sae": "a.safetensors", "concept": "disc"}
    before = node.fingerprint_inputs(sae=choice)
    assert node.fingerprint_inputs(sae=choice) == before
    write_random_sae(folder / "a.safetensors", MID, seed=7)
    assert node.fingerprint_inputs(sae=choice) != before


def test_concepts_of_very_many_groups_are_listed_group_by_group():
    concepts = tuple(Concept(f"c{i}", f"g{i % 20_000}", (i,)) for i in range(40_000))
    labels = sae_files._labels(concepts)
    assert labels[:4] == ("c0", "c20000", "c1", "c20001")


def test_a_file_that_cannot_be_read_now_is_in_the_next_list(folder, monkeypatch):
    """It is being copied, or locked."""

    def locked(path):
        raise PermissionError(13, "locked", path)

    write_random_sae(folder / "a.safetensors", MID)
    with monkeypatch.context() as patch:
        patch.setattr(sae_files, "content_id", locked)
        assert list_saes() == {}
    assert list(list_saes()) == ["a.safetensors"]


def test_a_name_that_is_linked_is_looked_at_when_it_runs(folder):
    """ComfyUI validates it as None."""
    for node in (LoadSAE, SAEInfo):
        assert node.validate_inputs(None) is True and node.fingerprint_inputs(None) is None
