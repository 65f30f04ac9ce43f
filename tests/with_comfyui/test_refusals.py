"""What cannot be erased is refused before sampling, with a message that names the thing and the way out."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import execution
import folder_paths
import pytest
import torch
from safetensors.torch import load_file, save_file

from pure.sae_files import rewrite
from sae_eraser.nodes.erase.concept_inputs import NO_CONCEPT, open_choice, read_mask
from sae_eraser.nodes.erase.erase_concept import EraseConcept
from sae_eraser.nodes.erase.erase_concepts import EraseConcepts
from sae_eraser.nodes.files.load_sae import LoadSAE
from sae_eraser.nodes.files.sae_files import NONE_INSTALLED, list_saes
from sae_eraser.nodes.look.watching import UnwatchedLatent
from sae_eraser.sae_ops.concepts import UnknownConcept
from sae_eraser.sae_ops.formats import no_statistics
from sae_eraser.sae_ops.hookpoints import HookpointError
from sae_eraser.sae_ops.sae_file import SAEFileError, load_sae, save_sae
from sae_eraser.training.cache.manifest import CacheError
from with_comfyui.random_files import write_random_sae
from with_comfyui.sampling import erase

GOOD = "good.safetensors"


@pytest.fixture
def folder(pack, tmp_path, monkeypatch) -> Path:
    """Stands for models/sae, with one good file."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sae", ([str(tmp_path)], {".safetensors"}))
    write_random_sae(tmp_path / GOOD, "mid_block.attentions.0")
    return tmp_path


def assert_refused(model, sae: str, *words: str, concept: str = "disc") -> None:
    """Erase Concept refuses it in words that hold these."""
    with pytest.raises(ValueError) as error:
        erase(model, concept, sae)
    for word in words:
        assert re.search(word, str(error.value)), str(error.value)


def options_of(node) -> dict[str, list[str]]:
    """The dropdown of SAEs as ComfyUI's page gets it: every file and its concepts."""
    kind, settings = node.GET_NODE_INFO_V1()["input"]["required"]["sae"]
    return {o["key"]: o["inputs"]["required"]["concept"][1]["options"] for o in settings["options"]}


def test_the_dropdown_lists_files_and_their_concepts(folder):
    assert options_of(EraseConcept) == {GOOD: ["disc", "box", "silent", "wavy", "grainy"]}


def test_the_dropdown_follows_the_folder(folder):
    write_random_sae(folder / "sub" / "more.safetensors", "mid_block.attentions.0")
    assert len(options_of(EraseConcept)) == 2
    (folder / GOOD).unlink()
    assert len(options_of(EraseConcept)) == 1


def test_without_any_sae_the_nodes_load_and_say_where_to_put_one(folder, model):
    (folder / GOOD).unlink()
    assert options_of(EraseConcept) == {NONE_INSTALLED: [NO_CONCEPT]}
    assert LoadSAE.GET_NODE_INFO_V1()["input"]["required"]["sae_name"][1]["options"] == [NONE_INSTALLED]
    assert_refused(model, NONE_INSTALLED, "No SAE is installed", re.escape(str(folder)), "press R", concept=NO_CONCEPT)
    with pytest.raises(ValueError, match="No SAE is installed"):
        LoadSAE.execute(NONE_INSTALLED)


def test_an_sae_without_concepts_says_how_to_get_some(folder, model):
    sae, header, _ = load_sae(folder / GOOD)
    save_sae(folder / GOOD, sae, replace(header, concepts=()), no_statistics())
    assert options_of(EraseConcept) == {GOOD: [NO_CONCEPT]}
    assert_refused(model, GOOD, "has no concepts.*sae-eraser train --extend", concept=NO_CONCEPT)


@pytest.mark.parametrize("sae", [None, 5, ["x"]])
def test_what_is_no_name_of_a_file(folder, sae):
    """As a program may send it."""
    node = SimpleNamespace(hidden=SimpleNamespace(prompt={"1": {"inputs": {"sae": sae}}}, unique_id="1"))
    with pytest.raises(SAEFileError, match=f"The SAE is {re.escape(repr(sae))}, but must be the name of a file"):
        open_choice(node, None)


@pytest.mark.parametrize("inputs", [{}, {"sae": NONE_INSTALLED, "sae.concept": NO_CONCEPT}], ids=str)
def test_no_file_at_all(folder, inputs):
    """As a program may send it, or a page that was opened before there were files."""
    write_random_sae(folder / "drawn.safetensors", "mid_block.attentions.0", branch="uncond")
    node = SimpleNamespace(hidden=SimpleNamespace(prompt={"1": {"inputs": inputs}}, unique_id="1"))
    choices = re.escape(f"drawn.safetensors (cannot erase), {GOOD}. If they are not in the list, press R.")
    with pytest.raises(SAEFileError, match=f"^No SAE is chosen. Choose one of: {choices}$"):
        open_choice(node, None)


def test_what_is_no_mask():
    with pytest.raises(ValueError, match="The mask is 'white', but must be a MASK"):
        read_mask("white")


def test_the_page_does_not_put_a_path_before_what_is_wrong():
    """ComfyUI names an error by its module, which of a pack is a path."""
    for error in (CacheError, HookpointError, SAEFileError, UnknownConcept, UnwatchedLatent):
        assert execution.full_type_name(error) == f"sae_eraser.{error.__name__}"


def test_a_missing_file(folder, model):
    """As in a workflow that somebody shared."""
    assert_refused(model, "theirs.safetensors", "'theirs.safetensors' is not installed", re.escape(str(folder)))


def test_a_file_that_is_installed_but_not_offered(folder, model):
    """ComfyUI leaves out an input whose file is not in its list; this one is since it was trained anew."""
    write_random_sae(folder / "drawn.safetensors", "mid_block.attentions.0", branch="uncond")
    asked = {"sae": "drawn.safetensors", "sae.concept": "disc"}
    hidden = SimpleNamespace(prompt={"1": {"inputs": asked}}, unique_id="1")
    sae, concept = open_choice(SimpleNamespace(hidden=hidden), None)
    assert (sae.name, sae.header.concepts[concept].name) == ("drawn.safetensors", "disc")


@pytest.mark.parametrize("share", [0, 0.3, 0.999])
def test_a_truncated_file_is_left_out_of_the_list_and_refused(folder, model, share):
    content = (folder / GOOD).read_bytes()
    (folder / "half.safetensors").write_bytes(content[: int(share * len(content))])
    assert list(list_saes()) == [GOOD]
    assert_refused(model, "half.safetensors", "half.safetensors cannot be read", "download it again")


def test_a_lora_is_left_out_of_the_list_and_refused(folder, model):
    save_file({"lora_up.weight": torch.zeros(2, 2)}, folder / "lora.safetensors")
    assert list(list_saes()) == [GOOD]
    assert_refused(model, "lora.safetensors", "lora.safetensors is a safetensors file, but not an SAE")


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 99},
        {"concepts": "disc"},
        {"autoencoder": {"d_in": 128, "n_latents": 256, "activation": "gelu", "k": 6}},
        {"autoencoder": {"d_in": 128, "n_latents": 256, "k": 0}},
    ],
    ids=str,
)
def test_one_bad_header_does_not_take_the_other_files_from_the_list(folder, model, fields):
    write_random_sae(folder / "bad.safetensors", "mid_block.attentions.0")
    rewrite(folder / "bad.safetensors", **fields)
    assert list(list_saes()) == [GOOD]
    assert_refused(model, "bad.safetensors", "bad.safetensors")


def test_nan_in_the_weights(folder, model):
    tensor = load_file(folder / GOOD)["W_dec"]
    tensor[3, 5] = torch.nan
    rewrite(folder / GOOD, {"W_dec": tensor})
    assert_refused(model, GOOD, GOOD, "'W_dec' holds NaN")


def test_an_sae_for_another_width(folder, model):
    write_random_sae(folder / GOOD, "mid_block.attentions.0", d=64)
    assert_refused(model, GOOD, f"'{GOOD}' reads 64 channels, but mid_block.attentions.0 has 128", "Choose an SAE")


def test_an_sae_for_a_block_that_the_model_lacks(folder, model):
    write_random_sae(folder / GOOD, "up_blocks.3.attentions.1")
    assert_refused(model, GOOD, "no hookpoint 'up_blocks.3.attentions.1'", "mid_block.attentions.0")


def test_an_sae_for_another_model_family(folder, model):
    write_random_sae(folder / GOOD, "mid_block.attentions.0", model_family="SDXL")
    assert_refused(model, GOOD, f"'{GOOD}' was made for SDXL models, but this model is ShapeCanvas", "checkpoint")


@pytest.mark.parametrize("concept", ["dragon", "", "style: disc"])
def test_an_unknown_concept(folder, model, concept):
    assert_refused(model, GOOD, "no concept", "disc, box, wavy, grainy, silent", concept=concept)


def test_a_concept_that_is_nearly_right(folder, model):
    assert_refused(model, GOOD, "Did you mean 'grainy'", concept="grainny")


def test_an_unknown_concept_among_several(folder, model):
    sae = LoadSAE.execute(GOOD).result[0]
    with pytest.raises(ValueError, match="no concept 'dragon'.*disc, box"):
        EraseConcepts.execute(model, sae, "disc, dragon: 0.5", 0.0, 1.0, "scale", "both")


def test_a_file_that_was_replaced_is_read_again(folder, model):
    erase(model, "disc", GOOD)
    write_random_sae(folder / GOOD, "mid_block.attentions.0", model_family="SDXL")
    assert_refused(model, GOOD, "made for SDXL")


def test_a_file_is_read_once_for_many_nodes(folder, model):
    assert LoadSAE.execute(GOOD).result[0] is LoadSAE.execute(GOOD).result[0]
