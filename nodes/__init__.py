"""The nodes of the pack, a topic a file."""

from comfy_api.latest import ComfyExtension, io

from .collect.collect_activations import CollectActivations
from .erase.erase_concept import EraseConcept
from .erase.erase_concept_from_text import EraseConceptFromText
from .erase.erase_concept_hook import EraseConceptHook
from .erase.erase_concepts import EraseConcepts
from .erase.steer_concept import SteerConcept
from .files.load_sae import LoadSAE
from .files.sae_info import SAEInfo
from .locate.locate_concept import LocateConcept
from .look.concept_guard import ConceptGuard
from .look.concept_heatmap import ConceptHeatmap
from .look.concept_score import ConceptScore
from .look.watch_concepts import WatchConcepts
from .sample.sample_prompts import SamplePrompts
from .train.import_sae import ImportSAE
from .train.train_sae import TrainSAE


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
