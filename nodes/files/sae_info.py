"""SAE Info: shows what is in an SAE file."""

from comfy_api.latest import io, ui

from ...sae_ops.description import describe_file
from ...sae_ops.file import SAEFileError
from .sae_files import NONE_INSTALLED, fingerprint, list_saes, sae_path


class SAEInfo(io.ComfyNode):
    """Shows where an SAE belongs, how good it is, and its concepts, without loading it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAEEraser_SAEInfo",
            display_name="SAE Info",
            category="model/SAE Eraser",
            description="Shows for which model and block an SAE was made, how good it is, and which concepts it has.",
            search_aliases=["sparse autoencoder", "inspect SAE", "list concepts"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "sae_name", options=list(list_saes()) or [NONE_INSTALLED], tooltip="A file from models/sae."
                )
            ],
            outputs=[io.String.Output("info", tooltip="The text that the node shows.")],
        )

    @classmethod
    def validate_inputs(cls, sae_name: str):
        try:
            sae_path(sae_name)
        except SAEFileError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, sae_name: str):
        return fingerprint(sae_name)

    @classmethod
    def execute(cls, sae_name: str) -> io.NodeOutput:
        text = describe_file(sae_path(sae_name))
        return io.NodeOutput(text, ui=ui.PreviewText(text))
