"""Import SAE: runs `sae-eraser import`, which makes an SAE file of another tool's SAE."""

import filecmp
import tempfile
from pathlib import Path

import comfy.supported_models
import folder_paths
from comfy_api.latest import io, ui

from ...sae_ops.description import describe_file
from ...sae_ops.formats import files_of
from ...sae_ops.sae_file import HOOKED_TENSORS, is_sae_file
from ..files.fingerprints import changes_since, stamps
from ..files.load_sae import SAE
from ..files.new_sae_files import finished_sae, new_sae_path, refuse_to_replace
from ..files.other_computers import refuse_other_computers
from ..files.sae_files import FOLDER
from .command import run_command

AS_FILES_SAY = "as the files say"


class ImportSAE(io.ComfyNode):
    """Turns an SAE of SAeUron, SAELens, sparsify and others into one that the nodes can use."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        families = [family.__name__ for family in comfy.supported_models.models]
        return io.Schema(
            node_id="SAEEraser_ImportSAE",
            display_name="Import SAE",
            category="model/SAE Eraser",
            description="Makes an SAE file of another tool's SAE: SAeUron, SAEmnesia, sdxl-unbox, sparsify, SAELens, "
            "dictionary_learning, overcomplete or OpenAI. Nothing in a pickle is run.",
            search_aliases=["sparse autoencoder", "convert SAE", "SAeUron", "SAELens", "sparsify"],
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "path", default="", tooltip="File or folder of the other tool, in models/sae or a whole path."
                ),
                io.String.Input("name", default="imported", tooltip="The SAE goes to models/sae/NAME.safetensors."),
                io.String.Input(
                    "hookpoint",
                    default="",
                    tooltip="The block it was trained on, such as up_blocks.1.attentions.1; empty if the files say it.",
                ),
                io.Combo.Input(
                    "model_family",
                    options=[AS_FILES_SAY, *families],
                    default=AS_FILES_SAY,
                    tooltip="The models it was trained on, by ComfyUI's name, such as SD15 or SDXL.",
                ),
                io.String.Input(
                    "concepts",
                    default="",
                    tooltip="SAeUron's table of concepts, cls_latents_dict_....pkl, in models/sae or a whole path. "
                    "Without concepts nothing can be erased.",
                ),
                io.String.Input(
                    "group", default="object", tooltip="Kind of concepts that these are, such as object or style."
                ),
                io.Boolean.Input("overwrite", default=False, tooltip="Replace an SAE file of this name."),
                *_advanced_inputs(),
            ],
            outputs=[
                io.String.Output("name", tooltip="The file in models/sae."),
                SAE.Output("sae", tooltip="The SAE, for Erase Concepts or Watch Concepts."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        """Changes with the files, and if the SAE file is not as the node has left it.

        An input that another node computes is None here.
        """
        wanted = [path for name in ("path", "concepts", "settings") if (path := inputs.get(name))]
        files = [file for path in wanted if (here := _find(path)) for file in files_of(here)]
        if not (name := inputs.get("name")):
            return stamps(files)
        out = new_sae_path(name)
        return [*stamps(file for file in files if file != out), *changes_since(out, inputs)]

    @classmethod
    def execute(cls, name, **inputs) -> io.NodeOutput:
        """Imports, unless that was done before. Raises ValueError as _import does; else as finished_sae does."""
        out = new_sae_path(name)
        return finished_sae(out, {"name": name, **inputs}, ui.PreviewText(_import(out, **inputs)))


def _import(
    out,
    path,
    hookpoint,
    model_family,
    concepts,
    group,
    overwrite,
    hooked,
    settings,
    percentile,
    multiplier,
    k,
    threshold,
    download,
) -> str:
    """Writes the SAE file `out`, unless it is there already; the text that the node shows.

    Raises ValueError if a path names nothing, or if the file exists, is another one and is not to be replaced; else
    as run_command does.
    """
    given = {
        "hookpoint": hookpoint.strip(),
        "model_family": "" if model_family == AS_FILES_SAY else model_family,
        "hooked": "" if hooked == AS_FILES_SAY else hooked,
        "k": k,
        "threshold": threshold,
        "concepts": str(_existing_table(concepts, "concepts")) if concepts.strip() else "",
        "settings": str(_existing_table(settings, "settings")) if settings.strip() else "",
        "group": group.strip(),
    }
    source = path.strip() if download and path.strip() and not _find(path) else str(_existing(path))
    if source.startswith("-"):
        raise ValueError(f"'{source}' is no repository on Hugging Face. Write owner/name.")
    if is_sae_file(Path(source)) and any(Path(source).is_relative_to(root) for root in _folders()):
        raise ValueError(f"{source} is an SAE file already, and in models/sae. Choose it in the erase nodes.")
    arguments = ["import", source]
    arguments += [f"--{option.replace('_', '-')}={value}" for option, value in given.items() if value]
    arguments += [f"--percentile={percentile}", f"--multiplier={multiplier}"]
    if out.exists() and not overwrite:
        _refuse_to_replace_another(out, arguments)
        return f"{out.name} was imported like this before.\n{describe_file(out)}"
    run_command([*arguments, "--out", str(out), *(["--overwrite"] if overwrite else [])], lambda line: None)
    return describe_file(out)


def _refuse_to_replace_another(out: Path, arguments: list[str]) -> None:
    """Raises ValueError if the file is not what would be imported.

    ComfyUI forgets what the nodes of a workflow gave while another one runs, so they run again.
    """
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".import-") as folder:
        again = Path(folder, "again.part")
        run_command([*arguments, "--out", str(again)], lambda line: None)
        if not filecmp.cmp(again, out, shallow=False):
            refuse_to_replace(out)


def _folders() -> list[Path]:
    return [Path(root) for root in folder_paths.get_folder_paths(FOLDER)]


def _find(path: str) -> Path | None:
    """The file or folder of this name in models/sae, or of this whole path; None if there is none.

    Raises ValueError as refuse_other_computers does.
    """
    wanted = refuse_other_computers(path)
    places = [root / wanted for root in _folders()]
    return next((place for place in places if wanted and place.exists()), None)


def _existing(path: str) -> Path:
    found = _find(path)
    if found is None:
        raise ValueError(
            f"'{path.strip()}' is neither in {_folders()[0]} nor a whole path of this computer. Put the file or folder "
            "there; or, if it is a repository on Hugging Face, set download."
        )
    return found


def _existing_table(path: str, what: str) -> Path:
    """The file that an input, `what`, names. Raises ValueError if there is none, or a folder."""
    found = _find(path)
    if found is None:
        raise ValueError(
            f"'{path.strip()}', the file of {what}, is neither in {_folders()[0]} nor a whole path of this computer. "
            "Put the file there."
        )
    if found.is_dir():
        raise ValueError(f"{found}, given as {what}, is a folder. Write the name of the file in it as well.")
    return found


def _advanced_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "hooked",
            options=[AS_FILES_SAY, *HOOKED_TENSORS],
            default=AS_FILES_SAY,
            advanced=True,
            tooltip="What the SAE reads: the block's output, or output minus input (residual).",
        ),
        io.String.Input(
            "settings",
            default="",
            advanced=True,
            tooltip="SAeUron's percentile and multiplier of each concept, class_params.pth.",
        ),
        io.Float.Input(
            "percentile",
            default=99.999,
            min=0.0,
            max=99.999,
            step=0.001,
            advanced=True,
            tooltip="Percentile of all scores above which a latent carries a concept that has no settings.",
        ),
        io.Float.Input(
            "multiplier",
            default=-1.0,
            min=-1000.0,
            max=0.0,
            step=0.1,
            advanced=True,
            tooltip="How strongly the edit pushes a concept away that has no settings.",
        ),
        io.Int.Input(
            "k",
            default=0,
            min=0,
            max=2**20,
            advanced=True,
            tooltip="Latents kept for each vector, where the files do not say; 0 is unknown.",
        ),
        io.Float.Input(
            "threshold",
            default=0.0,
            min=0.0,
            max=1e6,
            step=0.001,
            advanced=True,
            tooltip="What latents must exceed, where the files do not say; 0 is unknown.",
        ),
        io.Boolean.Input(
            "download",
            default=False,
            advanced=True,
            tooltip="Get the path from Hugging Face if it is not on this computer: it is owner/name then, or a folder "
            "or file in that.",
        ),
    ]
