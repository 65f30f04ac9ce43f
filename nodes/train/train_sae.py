"""Train SAE: runs `sae-eraser train` beside ComfyUI, on a cache of Collect Activations."""

from comfy import model_management
from comfy_api.latest import io, ui

from ...sae_ops.autoencoder import SAEConfig
from ...training.cache.manifest import MANIFEST
from ...training.cache.reader import Cache
from ...training.config import TrainingConfig
from ..files.cache_folders import cache_path, find_cache
from ..files.fingerprints import changes_since, stamps
from ..files.load_sae import SAE
from ..files.new_sae_files import finished_sae, new_sae_path, refuse_to_replace
from ..pictures import as_tensor
from .caches import choose_hookpoint, is_trained
from .command import in_words_of_nodes, run_command
from .curves import draw_curves
from .train_display import TrainDisplay
from .train_inputs import advanced_train_inputs, train_inputs


class TrainSAE(io.ComfyNode):
    """Makes an SAE file of a cache in a process of its own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAEEraser_TrainSAE",
            display_name="Train SAE",
            category="model/SAE Eraser",
            description="Makes an SAE file of what Collect Activations has cached: every concept gets a latent of its "
            "own. Goes on where it was stopped.",
            search_aliases=["sparse autoencoder", "SAE training", "trainer", "learn concepts"],
            is_output_node=True,
            inputs=[*train_inputs(), *advanced_train_inputs()],
            outputs=[
                io.String.Output("name", tooltip="The file in models/sae."),
                SAE.Output("sae", tooltip="The SAE, for Erase Concepts or Watch Concepts."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        """Changes with the cache, and if the SAE file is not as the node has left it.

        An input that another node computes is None here.
        """
        cache, name = inputs.get("cache"), inputs.get("name")
        folder = cache_path(cache) if cache else None
        collected = [folder / MANIFEST, *sorted(folder.glob("shard-*.json"))] if folder else []
        return [*stamps(collected), *(changes_since(new_sae_path(name), inputs) if name else [])]

    @classmethod
    def execute(cls, name, **inputs) -> io.NodeOutput:
        """Trains, unless that was done before. Raises ValueError as _train does; else as finished_sae does."""
        out = new_sae_path(name)
        return finished_sae(out, {"name": name, **inputs}, _train(cls, out, **inputs))


def _train(
    node: type[io.ComfyNode],
    out,
    cache,
    hookpoint,
    groups,
    latents,
    k,
    overwrite,
    activation,
    memory,
    checkpoint_minutes,
    restart,
    skip_bad_shards,
    concept_weight=TrainingConfig.concept_weight,
    spare_look_alikes=TrainingConfig.spare_look_alikes,
    **options,
) -> ui.PreviewText | dict:
    """Writes the SAE file `out`, unless it is there already; what the node shows.

    Raises ValueError if there is no such cache or hookpoint, if the options do not go together, or if the file exists
    and is not to be replaced; else as run_command does.
    """
    folder = find_cache(cache)
    options["learning_rate"] = options["learning_rate"] or None
    options |= {"concept_weight": concept_weight, "spare_look_alikes": spare_look_alikes}
    chosen = [group.strip() for group in groups.split(",") if group.strip()]
    try:
        opened = Cache(folder, skip_bad_shards)
        point = choose_hookpoint(opened, hookpoint.strip())
        width = opened.shape(point)[-1]
        config = TrainingConfig(**options)
    except ValueError as error:
        raise ValueError(in_words_of_nodes(str(error))) from error
    sae = SAEConfig(width, latents or 16 * width, activation, k)
    if is_trained(out, opened, point, chosen, sae, config):
        return ui.PreviewText(f"{out.name} was trained like this before, on this cache.")
    if not overwrite:
        refuse_to_replace(out)
    arguments = ["train", str(folder), "--out", str(out), "--hookpoint", point, "--progress", "json"]
    arguments += ["--latents", str(sae.n_latents), "--k", str(k), "--activation", activation]
    arguments += ["--memory", str(memory), "--checkpoint-minutes", str(checkpoint_minutes)]
    arguments += [f"--groups={group}" for group in chosen]  # in one word each, so that none is an option
    flags = {"overwrite": overwrite, "restart": restart, "skip_bad_shards": skip_bad_shards}
    for option, value in (options | flags).items():
        arguments += _as_argument(f"--{option.replace('_', '-')}", value)
    phases = {"reconstruct": options["unsupervised_steps"], "supervise": options["supervised_steps"]}
    model_management.unload_all_models()
    model_management.soft_empty_cache()
    with TrainDisplay(out.stem, phases, getattr(node.hidden, "unique_id", None)) as display:
        run_command(arguments, display.read)
    shown = ui.PreviewText("\n".join(display.text)).as_dict()
    if display.curves:
        picture = as_tensor(draw_curves(list(display.curves.values())))
        shown |= ui.PreviewImage(picture, cls=node).as_dict()
    return shown


def _as_argument(option: str, value: float | str | None) -> list[str]:
    """Arguments of the command line; none for what is off, or left to the trainer."""
    if value is None or value is False:
        return []
    return [option] if value is True else [option, str(value)]
