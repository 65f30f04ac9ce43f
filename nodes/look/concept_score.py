"""Concept Score: how much of each concept the sampler met."""

import torch
from comfy_api.latest import io, ui

from ...sae_ops.concepts import find_concept
from ...sae_ops.scores import concept_scores
from .watch_concepts import look_inputs
from .watching import Watch

THRESHOLD = 0.25


class ConceptScore(io.ComfyNode):
    """Scores every concept of a watched run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAEEraser_ConceptScore",
            display_name="Concept Score",
            category="model/SAE Eraser",
            description="Tells how much of each concept the sampler met: about 1 is as in pictures that show it, about "
            "0 as in those that do not.",
            search_aliases=["classify", "detect concept", "safety", "moderation", "SAE"],
            is_output_node=True,
            inputs=[
                *look_inputs(),
                io.String.Input(
                    "concept", default="", tooltip="The concept to score. Leave it empty for the one met most."
                ),
                threshold_input(),
            ],
            outputs=[
                io.Float.Output("score", tooltip="Score of the concept; of a batch the highest."),
                io.Boolean.Output("met", tooltip="Whether the score is above the threshold."),
                io.String.Output("scores", tooltip="All concepts, the one met most first."),
            ],
        )

    @classmethod
    def execute(cls, watch, latent, concept, threshold) -> io.NodeOutput:
        named = [find_concept(watch.sae.header.concepts, concept)] if concept.strip() else None
        scores = read_scores(watch, latent, named)
        highest = scores.amax(dim=0)
        score = float(highest[named[0]] if named else highest.max())
        text = ranking(watch, scores, threshold)
        return io.NodeOutput(score, score > threshold, text, ui=ui.PreviewText(text))


def threshold_input() -> io.Input:
    return io.Float.Input(
        "threshold",
        default=THRESHOLD,
        min=0.0,
        max=10.0,
        step=0.05,
        tooltip="A concept counts as met above this score. 1 is as in pictures that show it.",
    )


def read_scores(watch: Watch, latent: dict, needed: list[int] | None = None) -> torch.Tensor:
    """Scores [images, concepts] of the run that made this LATENT, NaN where the SAE's statistics tell none.

    needed: the concepts that must have one, all if None. Raises UnwatchedLatent, and ValueError if one has none.
    """
    run, sae = watch.run_of(latent["samples"]), watch.sae
    scores = concept_scores(run.z, run.sigmas, sae.header.concepts, sae.statistics)
    wanted = range(scores.shape[1]) if needed is None or run.z.isnan().any() else needed
    names = ", ".join(sae.header.concepts[index].name for index in wanted if scores[:, index].isnan().any())
    if names:
        raise ValueError(
            f"No score can be told for {names}: the model has drawn NaN, or the statistics of the SAE '{sae.name}' do "
            "not tell pictures with and without apart. Train the SAE again, or watch another."
        )
    return scores


def ranking(watch: Watch, scores: torch.Tensor, threshold: float) -> str:
    """A line for each concept, the one met most first; of a batch the highest score counts, with its picture."""
    highest, images = scores.max(dim=0)
    lines = []
    for index in highest.nan_to_num(nan=-torch.inf).argsort(descending=True).tolist():
        concept = watch.sae.header.concepts[index]
        mark = "  met" if highest[index] > threshold else ""
        where = f"  picture {int(images[index]) + 1} of {len(scores)}" if mark and len(scores) > 1 else ""
        score = "none" if highest[index].isnan() else f"{round(float(highest[index]), 2) + 0.0:.2f}"  # never -0.00
        lines.append(f"{score}  {concept.group}: {concept.name}{mark}{where}")
    return "\n".join(lines)
