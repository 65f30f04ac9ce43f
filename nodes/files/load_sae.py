"""Load SAE: opens a file of models/sae for the nodes that take an SAE."""

from comfy_api.latest import io

from ...sae_ops.sae_file import SAEFileError
from .sae_files import NONE_INSTALLED, fingerprint, list_origins, list_saes, open_sae, sae_path

SAE = io.Custom("SAE")


def sae_name_input() -> io.Input:
    """The dropdown of SAE files. It also tells web/sae_files.js where they come from."""
    return io.Combo.Input(
        "sae_name",
        options=list(list_saes()) or [NONE_INSTALLED],
        tooltip="A file from models/sae.",
        extra_dict={"sae_origins": list_origins()},
    )


def check_installed(sae_name: str | None) -> bool | str:
    """What validate_inputs returns: True, or what to do if the file is not there. None is not known yet: a link."""
    if sae_name is None:
        return True
    try:
        sae_path(sae_name)
    except SAEFileError as error:
        return str(error)
    return True


class LoadSAE(io.ComfyNode):
    """Loads an SAE file and hands it on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAEEraser_LoadSAE",
            display_name="Load SAE",
            category="model/SAE Eraser",
            description="Loads a sparse autoencoder for Erase Concepts and Watch Concepts.",
            search_aliases=["sparse autoencoder", "SAE loader"],
            inputs=[sae_name_input()],
            outputs=[SAE.Output(tooltip="The loaded SAE.")],
        )

    @classmethod
    def validate_inputs(cls, sae_name: str | None):
        return check_installed(sae_name)

    @classmethod
    def fingerprint_inputs(cls, sae_name: str | None):
        return fingerprint(sae_name)

    @classmethod
    def execute(cls, sae_name: str) -> io.NodeOutput:
        return io.NodeOutput(open_sae(sae_name))
