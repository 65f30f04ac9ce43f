"""SAEs of other tools in models/sae: they are listed, and refused where they cannot erase."""

import json
from pathlib import Path

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from sae_eraser.nodes.files.load_sae import LoadSAE
from sae_eraser.nodes.files.sae_files import list_saes, open_sae
from sae_eraser.sae_ops.formats import read_foreign
from sae_eraser.sae_ops.sae_file import SAEFileError

REFERENCES = Path(__file__).parents[1] / "pure" / "references"


@pytest.fixture
def folder(pack, tmp_path, monkeypatch) -> Path:
    """Stands for models/sae."""
    _, suffixes = folder_paths.folder_names_and_paths["sae"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sae", ([str(tmp_path)], suffixes))
    return tmp_path


def put(folder: Path, case: str, name: str, **settings) -> Path:
    """One of the reference checkpoints, in a folder of this name."""
    to = folder / name
    to.mkdir()
    for path in (REFERENCES / case).iterdir():
        if path.name not in ("expected.safetensors", "given.json"):
            (to / path.name).write_bytes(path.read_bytes())
    config = to / "cfg.json"
    if config.exists():
        config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    return to


def test_they_are_listed_by_their_weights_and_without_concepts(folder):
    put(folder, "sparsify_topk", "a")
    put(folder, "saelens_jumprelu", "b")
    put(folder, "dictionary_learning_BatchTopKSAE", "c")
    put(folder, "overcomplete_topk", "d")
    torch.save(torch.ones(3), folder / "mean.pt")
    save_file({"lora_up.weight": torch.zeros(2, 2)}, folder / "lora.safetensors")
    names = ["a/sae.safetensors", "b/sae_weights.safetensors", "c/ae.pt", "d/sae.pt"]
    assert {name.replace("\\", "/"): concepts for name, concepts in list_saes().items()} == dict.fromkeys(names, ())
    options = LoadSAE.GET_NODE_INFO_V1()["input"]["required"]["sae_name"][1]["options"]
    assert sorted(option.replace("\\", "/") for option in options) == names


def test_one_whose_folder_names_its_block_is_loaded(folder):
    path = put(folder, "sparsify_topk", "unet.up_blocks.1.attentions.1", batch_topk=True)
    loaded = LoadSAE.execute("unet.up_blocks.1.attentions.1/sae.safetensors").result[0]
    assert (loaded.header.hookpoint, loaded.header.model_family) == ("up_blocks.1.attentions.1", "SD15")
    assert torch.equal(loaded.autoencoder.W_enc, read_foreign(path).autoencoder.W_enc)


@pytest.mark.parametrize("case", ["sparsify_topk", "saelens_jumprelu", "dictionary_learning_BatchTopKSAE"])
def test_one_of_which_nothing_tells_the_place_has_to_be_imported(folder, case):
    name = f"mine/{next(path.name for path in put(folder, case, 'mine').iterdir() if path.suffix != '.json')}"
    with pytest.raises(SAEFileError, match="sae-eraser import .* --hookpoint NAME --model-family") as error:
        open_sae(name)
    assert name in str(error.value)


def test_one_that_no_edit_is_made_for_is_refused(folder):
    put(folder, "sparsify_groupmax", "unet.mid_block.attentions.0", batch_topk=True)
    with pytest.raises(SAEFileError, match="cannot erase: its groupmax"):
        open_sae("unet.mid_block.attentions.0/sae.safetensors")


def test_one_that_lacks_a_setting_says_which(folder):
    put(folder, "overcomplete_topk", "unet.mid_block.attentions.0")
    with pytest.raises(SAEFileError, match="--k"):
        open_sae("unet.mid_block.attentions.0/sae.pt")
