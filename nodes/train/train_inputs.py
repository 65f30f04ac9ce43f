"""Inputs of Train SAE."""

from comfy_api.latest import io

from ...sae_ops.sae_file import TRAINED_BRANCHES
from ...training.config import DEFAULT_K, TrainingConfig


def train_inputs() -> list[io.Input]:
    """The inputs that the node always shows."""
    return [
        io.String.Input(
            "cache",
            default="my_cache",
            tooltip="Name of a folder in output/sae_cache, or a whole path. Connect Collect Activations here.",
        ),
        io.String.Input("name", default="my_sae", tooltip="The SAE goes to models/sae/NAME.safetensors."),
        io.String.Input(
            "hookpoint",
            default="",
            tooltip="Block of the cache to train on; empty if the cache holds one alone.",
        ),
        io.String.Input(
            "groups",
            default="",
            tooltip="Groups of labels that become concepts, separated by commas; empty for all.",
        ),
        io.Int.Input(
            "latents",
            default=0,
            min=0,
            max=2**20,
            tooltip="Number of latents; 0 is 16 times the block's width. Fewer need less memory.",
        ),
        io.Int.Input("k", default=DEFAULT_K, min=1, max=4096, tooltip="Latents kept for each vector."),
        io.Int.Input(
            "unsupervised_steps",
            default=TrainingConfig.unsupervised_steps,
            min=0,
            max=10**7,
            tooltip="Steps of the first phase, which learns to reconstruct activations; 0 learns that and the concepts "
            "together, from random latents.",
        ),
        io.Int.Input(
            "supervised_steps",
            default=TrainingConfig.supervised_steps,
            min=0,
            max=10**7,
            tooltip="Steps of the second phase, which binds each concept to its latents.",
        ),
        io.Boolean.Input("overwrite", default=False, tooltip="Replace an SAE file of this name."),
    ]


def advanced_train_inputs() -> list[io.Input]:
    """The inputs that the node shows on demand."""
    return [
        io.Combo.Input(
            "activation",
            options=["batchtopk", "topk"],
            default="batchtopk",
            advanced=True,
            tooltip="Which latents are kept. batchtopk: k is the mean over many vectors. topk: it is the number for "
            "every vector.",
        ),
        io.Int.Input(
            "vectors",
            default=TrainingConfig.vectors,
            min=1,
            max=2**24,
            advanced=True,
            tooltip="Activation vectors in each step of the unsupervised phase.",
        ),
        io.Int.Input(
            "maps",
            default=TrainingConfig.maps,
            min=1,
            max=2**16,
            advanced=True,
            tooltip="Maps (one picture at one noise level) in each step of the supervised phase.",
        ),
        io.Float.Input(
            "learning_rate",
            default=0.0,
            min=0.0,
            max=1.0,
            step=1e-5,
            advanced=True,
            tooltip="Learning rate of Adam; 0 chooses one by the number of latents.",
        ),
        io.Int.Input(
            "seed",
            default=TrainingConfig.seed,
            min=0,
            max=2**31 - 1,
            control_after_generate=False,
            advanced=True,
            tooltip="Seed of all random choices.",
        ),
        io.Float.Input(
            "memory",
            default=1.0,
            min=0.1,
            max=1024.0,
            step=0.1,
            advanced=True,
            tooltip="Activations held in memory at once, in GB.",
        ),
        io.Float.Input(
            "checkpoint_minutes",
            default=2.0,
            min=0.0,
            max=1440.0,
            step=0.5,
            advanced=True,
            tooltip="Minutes between checkpoints: cancelling loses at most so many.",
        ),
        io.Boolean.Input(
            "restart",
            default=False,
            advanced=True,
            tooltip="Forget an unfinished training of this name, which otherwise goes on.",
        ),
        io.Boolean.Input(
            "skip_bad_shards",
            default=False,
            advanced=True,
            tooltip="Train without parts of the cache that are missing or damaged.",
        ),
        io.Combo.Input(
            "branch",
            options=list(TRAINED_BRANCHES),
            default=TrainingConfig.branch,
            advanced=True,
            tooltip="Which half of guidance concepts are learned from. cond: what prompts ask for, to erase it. "
            "uncond: what is drawn, whatever the prompt says, for Watch Concepts and Concept Guard; collect with "
            "branch both.",
        ),
        io.Float.Input(
            "concept_weight",
            default=TrainingConfig.concept_weight,
            min=0.0,
            max=100.0,
            step=0.1,
            optional=True,
            advanced=True,
            tooltip="How much telling concepts apart counts beside reconstructing. 1 suits concepts that look alike.",
        ),
        io.Boolean.Input(
            "spare_look_alikes",
            default=TrainingConfig.spare_look_alikes,
            optional=True,
            advanced=True,
            tooltip="Edit a picture from the step on in which it shows more of the concept than 99 % of the pictures "
            "of each other concept. Look-alikes stay, and so does what shows only a little of it.",
        ),
    ]
