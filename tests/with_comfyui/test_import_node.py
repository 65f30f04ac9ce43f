"""Import SAE: another tool's checkpoint becomes a file in models/sae, and nothing is downloaded unasked."""

import pickle
import shutil
from pathlib import Path

import comfy.supported_models
import folder_paths
import pytest
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from safetensors.torch import load_file

from sae_eraser.nodes.files.sae_files import list_erasing_saes, list_saes, open_sae
from sae_eraser.nodes.files.sae_info import SAEInfo
from sae_eraser.nodes.train.import_sae import ImportSAE
from sae_eraser.sae_ops.sae_file import SAEFileError
from sae_eraser.training.concept_tables import Settings
from sae_eraser.training.model_families import MODEL_FAMILIES, other_spelling_of
from with_comfyui.random_files import write_random_sae

REFERENCES = Path(__file__).parents[1] / "pure" / "references"
PLACE = {"hookpoint": "up_blocks.1.attentions.1", "model_family": "SD15"}


@pytest.fixture
def saes(pack, tmp_path, monkeypatch) -> Path:
    """Stands for models/sae, with one of sparsify's checkpoints in a folder."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sae", ([str(tmp_path)], {".safetensors"}))
    shutil.copytree(REFERENCES / "sparsify_topk", tmp_path / "theirs")
    return tmp_path


def inputs(**changed) -> dict:
    found = ImportSAE.GET_NODE_INFO_V1()["input"]["required"]
    return {name: settings.get("default") for name, (_, settings) in found.items()} | {"path": "theirs"} | changed


def run(**changed):
    return ImportSAE.execute(**inputs(**changed))


def test_it_encodes_as_before_and_has_its_concepts(saes):
    generator = torch.Generator().manual_seed(0)
    table = {}
    for index, name in enumerate(("Bears", "Cats")):
        table[name] = 0.1 * torch.rand(3, 20, 48, generator=generator).half()
        table[name][:, :, 3 * index] += 2
    (saes / "cls_latents_dict_mine.pkl").write_bytes(pickle.dumps(table))
    node = run(**PLACE, concepts="cls_latents_dict_mine.pkl", group="animal", percentile=97.0, multiplier=-3.0)
    name, sae = node.result
    expected = load_file(REFERENCES / "sparsify_topk" / "expected.safetensors")
    torch.testing.assert_close(sae.autoencoder.encode(expected["x"]), expected["z"], rtol=0, atol=1e-5)
    assert name == "imported.safetensors" and (saes / name).is_file()
    assert (sae.header.hookpoint, sae.header.model_family) == ("up_blocks.1.attentions.1", "SD15")
    assert [(c.name, c.group, c.multiplier) for c in sae.header.concepts] == [
        ("Bears", "animal", -3.0),
        ("Cats", "animal", -3.0),
    ]
    assert "imported from sparsify" in node.ui.as_dict()["text"][0]
    with pytest.raises(ValueError, match="imported.safetensors exists. Choose another name, or set overwrite"):
        run(**PLACE)


def test_the_same_import_is_not_refused_when_comfyui_runs_the_node_again(saes):
    """Which it does after another workflow, or after a start."""
    first = run(**PLACE)
    written = (saes / "imported.safetensors").stat().st_mtime_ns
    again = run(**PLACE)
    assert again.result == first.result
    (before,), (after,) = first.ui.as_dict()["text"], again.ui.as_dict()["text"]
    assert after == f"imported.safetensors was imported like this before.\n{before}"
    assert (saes / "imported.safetensors").stat().st_mtime_ns == written
    assert sorted(path.name for path in saes.iterdir()) == ["imported.safetensors", "theirs"]
    with pytest.raises(ValueError, match="imported.safetensors exists. Choose another name, or set overwrite"):
        run(**{**PLACE, "hookpoint": "mid_block.attentions.0"})


def test_what_cannot_erase_is_imported_and_says_so(saes):
    """The file is of use to other tools: export writes it as those read it."""
    for _ in range(2):  # the second time it is there
        node = run(**PLACE, path=str(REFERENCES / "sparsify_groupmax"), name="groups")
        (text,) = node.ui.as_dict()["text"]
        assert "cannot erase: its groupmax is not supported in edits" in text.splitlines()
        name, sae = node.result
        assert name == "groups.safetensors" and (saes / name).is_file()
        assert isinstance(sae, ExecutionBlocker)  # as ComfyUI tells what is connected
        assert sae.message.startswith("The SAE 'groups.safetensors' cannot erase: its groupmax is not supported")
    with pytest.raises(SAEFileError, match="cannot erase: its groupmax"):
        open_sae("groups.safetensors")
    assert set(list_saes()) - set(list_erasing_saes()) == {"groups.safetensors"}


def test_no_model_family_of_comfyui_is_taken_for_another_spelling():
    names = {family.__name__ for family in comfy.supported_models.models}
    assert set(MODEL_FAMILIES) <= names
    assert not any(other_spelling_of(name) for name in names)


def test_comfyui_runs_the_node_again_when_the_sae_is_gone(saes):
    asked = inputs(**PLACE)
    run(**PLACE)
    assert ImportSAE.fingerprint_inputs(**asked) == ImportSAE.fingerprint_inputs(**asked)
    (saes / "imported.safetensors").unlink()
    assert ImportSAE.fingerprint_inputs(**asked) != ImportSAE.fingerprint_inputs(**asked)


@pytest.mark.parametrize("overwrite", [False, True])
def test_comfyui_keeps_the_import_of_an_unchanged_workflow(saes, overwrite):
    asked = inputs(**PLACE, overwrite=overwrite)
    before = ImportSAE.fingerprint_inputs(**asked)
    run(**PLACE, overwrite=overwrite)
    assert ImportSAE.fingerprint_inputs(**asked) == before
    assert ImportSAE.fingerprint_inputs(**{**asked, "path": None}) == []  # computed by another node


@pytest.mark.parametrize("change", ["deleted", "changed", "imported otherwise"])
def test_comfyui_imports_again_what_was_deleted_or_changed(saes, change):
    """Once: the fingerprint before that run is the fingerprint after it."""
    asked, file = inputs(**PLACE, overwrite=True), saes / "imported.safetensors"
    first = ImportSAE.fingerprint_inputs(**asked)
    run(**PLACE, overwrite=True)
    if change == "deleted":
        file.unlink()
    elif change == "changed":
        file.write_bytes(b"something else")
    else:
        run(**PLACE, overwrite=True, multiplier=-2.0)
    before = ImportSAE.fingerprint_inputs(**asked)
    run(**PLACE, overwrite=True)
    assert first != before == ImportSAE.fingerprint_inputs(**asked)


def test_what_the_files_leave_out_is_asked_for(saes):
    with pytest.raises(ValueError, match="does not say where in which model it belongs. Pass hookpoint, e.g."):
        run()
    assert not (saes / "imported.safetensors").exists()


@pytest.mark.parametrize("path", ["owner/name", "", "/no/such/folder"])
def test_a_path_that_is_not_there_downloads_nothing(saes, path, monkeypatch):
    monkeypatch.setattr("sae_eraser.nodes.train.command.subprocess.Popen", None)
    with pytest.raises(ValueError, match=f"'{path}' is neither in .* set download"):
        run(path=path)


@pytest.mark.parametrize(
    "path",
    ["//server/share/sae", r"\\server\share", r" \/server/share", r"\\?\UNC\server\share", r"\??\UNC\server\share"],
)
@pytest.mark.parametrize("name", ["path", "concepts", "settings"])
def test_no_workflow_makes_windows_sign_in_at_another_computer(saes, path, name, monkeypatch):
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda own: pytest.fail("it looks") if "server" in str(own) else exists(own))
    for use in (lambda: run(**{name: path}, download=True), lambda: ImportSAE.fingerprint_inputs(**{name: path})):
        with pytest.raises(ValueError, match="names another computer.*Copy the files to this one"):
            use()


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"concepts": "gone.pkl"}, "'gone.pkl', the file of concepts, is neither in .* Put the file there.$"),
        ({"concepts": "theirs", "settings": "gone.pth"}, "theirs, given as concepts, is a folder. Write the name"),
        ({"settings": "gone.pth"}, "'gone.pth', the file of settings, is neither in .* Put the file there.$"),
        ({"path": "--help", "download": True}, "'--help' is no repository on Hugging Face. Write owner/name"),
        ({"path": "ours.safetensors"}, "ours.safetensors is an SAE file already.* Choose it in the erase nodes"),
    ],
)
def test_what_cannot_be_imported_is_said_before_anything_runs(saes, monkeypatch, changed, message):
    write_random_sae(saes / "ours.safetensors", "mid_block.attentions.0")
    monkeypatch.setattr("sae_eraser.nodes.train.command.subprocess.Popen", None)
    with pytest.raises(ValueError, match=message):
        run(**{**PLACE, **changed})


def test_the_node_speaks_of_its_own_inputs_and_families(saes):
    with pytest.raises(ValueError, match="say that k is 5, not 7. Set k to 0.$"):
        run(**PLACE, k=7)
    family = next(family.__name__ for family in comfy.supported_models.models if family.__name__ not in MODEL_FAMILIES)
    (text,) = run(**{**PLACE, "model_family": family}).ui.as_dict()["text"]
    assert family in text and text == SAEInfo.execute("imported.safetensors").result[0]


def test_comfyui_runs_the_node_again_when_the_files_have_changed(saes):
    before = ImportSAE.fingerprint_inputs(**inputs())
    assert ImportSAE.fingerprint_inputs(**inputs()) == before
    (saes / "theirs" / "cfg.json").write_text("{}")
    assert ImportSAE.fingerprint_inputs(**inputs()) != before
    assert ImportSAE.fingerprint_inputs(**inputs(path="gone")) == ImportSAE.fingerprint_inputs() == []


@pytest.mark.parametrize("path", ["outer", "outer/middle/theirs", "outer/middle/theirs/sae.safetensors"])
@pytest.mark.parametrize("changed", ["cfg.json", "sae.safetensors"])
def test_comfyui_runs_the_node_again_when_a_file_has_changed_that_is_read_with_it(saes, path, changed):
    folder = saes / "outer" / "middle" / "theirs"
    shutil.copytree(saes / "theirs", folder)
    before = ImportSAE.fingerprint_inputs(**inputs(path=path))
    (folder / changed).write_text("{}")
    assert ImportSAE.fingerprint_inputs(**inputs(path=path)) != before


def test_what_the_node_writes_into_the_folder_that_it_reads_is_not_read(saes):
    asked = inputs(path=".")
    before = ImportSAE.fingerprint_inputs(**asked)
    (saes / "imported.safetensors").write_text("{}")
    assert ImportSAE.fingerprint_inputs(**asked) == before


def test_the_defaults_are_the_commands(pack):
    assert (inputs()["percentile"], inputs()["multiplier"]) == (Settings.percentile, Settings.multiplier)


@pytest.mark.parametrize("end", ["min", "max"])
def test_the_command_takes_every_percentile_and_multiplier_that_the_page_offers(pack, end):
    spec = ImportSAE.GET_NODE_INFO_V1()["input"]["required"]
    ends = {name: spec[name][1][end] for name in ("percentile", "multiplier")}
    Settings(**ends)
