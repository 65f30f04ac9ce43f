"""Watch Concepts: MODEL in, MODEL out, and a handle for the nodes that look at what was met."""

from comfy_api.latest import io

from ..files.load_sae import SAE
from .watching import watch

SAE_WATCH = io.Custom("SAE_WATCH")


def look_inputs() -> list[io.Input]:
    """The inputs that tell a node at which run of a sampler to look."""
    return [
        SAE_WATCH.Input("watch", tooltip="What was watched, from Watch Concepts."),
        io.Latent.Input("latent", tooltip="What the sampler has made with the watched model, unchanged."),
    ]


class WatchConcepts(io.ComfyNode):
    """Lets other nodes see how strongly an SAE's concepts fire while the model samples."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAEEraser_WatchConcepts",
            display_name="Watch Concepts",
            category="model/SAE Eraser",
            description="Watches how strongly the concepts of an SAE fire while the model samples, for Concept "
            "Heatmap, Concept Score and Concept Guard. Changes nothing in the picture.",
            search_aliases=["inspect", "probe", "interpretability", "SAE", "record activations"],
            inputs=[
                io.Model.Input("model", tooltip="The model that samples. It draws the same, watched or not."),
                SAE.Input("sae", tooltip="The SAE, from Load SAE. All of its concepts are watched."),
            ],
            outputs=[
                io.Model.Output(tooltip="The watched model, for the sampler."),
                SAE_WATCH.Output("watch", tooltip="For Concept Heatmap, Concept Score and Concept Guard."),
            ],
        )

    @classmethod
    def execute(cls, model, sae) -> io.NodeOutput:
        return io.NodeOutput(*watch(model, sae))
