"""The nodes of the pack, a topic a file."""

from comfy_api.latest import ComfyExtension, io

from .collect_activations import CollectActivations
from .concept_guard import ConceptGuard
from .concept_heatmap import ConceptHeatmap
from .concept_score import ConceptScore
from .erase_concept import EraseConcept
from .erase_concept_from_text import EraseConceptFromText
from .erase_concept_hook import EraseConceptHook
from .erase_concepts import EraseConcepts
from .import_sae import ImportSAE
from .load_sae import LoadSAE
from .locate_concept import LocateConcept
from .sae_info import SAEInfo
from .sample_prompts import SamplePrompts
from .steer_concept import SteerConcept
from .train_sae import TrainSAE
from .watch_concepts import WatchConcepts


class SAEEraserExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            EraseConcept,
            EraseConcepts,
            SteerConcept,
            EraseConceptHook,
            EraseConceptFromText,
            LoadSAE,
            LocateConcept,
            WatchConcepts,
            ConceptHeatmap,
            ConceptScore,
            ConceptGuard,
            SAEInfo,
            CollectActivations,
            TrainSAE,
            ImportSAE,
            SamplePrompts,
        ]
