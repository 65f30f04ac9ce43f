"""The nodes of the pack, a topic a file."""

from comfy_api.latest import ComfyExtension, io

from .collect_activations import CollectActivations
from .erase_concept import EraseConcept
from .erase_concepts import EraseConcepts
from .load_sae import LoadSAE


class SAEEraserExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [EraseConcept, EraseConcepts, LoadSAE, CollectActivations]
