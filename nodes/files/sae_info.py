"""SAE Info: shows what is in an SAE file."""

from comfy_api.latest import io, ui

from ...sae_ops.description import describe_file
from .load_sae import check_installed, sae_name_input
from .sae_files import fingerprint, sae_path


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
            inputs=[sae_name_input()],
            outputs=[io.String.Output("info", tooltip="The text that the node shows.")],
        )

    @classmethod
    def validate_inputs(cls, sae_name: str | None):
        return check_installed(sae_name)

    @classmethod
    def fingerprint_inputs(cls, sae_name: str | None):
        return fingerprint(sae_name)

    @classmethod
    def execute(cls, sae_name: str) -> io.NodeOutput:
        text = describe_file(sae_path(sae_name))
        return io.NodeOutput(text, ui=ui.PreviewText(text))
