"""EleutherAI's sparsify, and SAeUron and SAEmnesia, whose SAE descends from it.

cfg.json and sae.safetensors: encoder.weight [n, d], encoder.bias [n], W_dec [n, d], b_dec [d].
"""

from ..autoencoder import SparseAutoencoder
from ..sae_file import SAEFileError
from .assemble import assemble
from .checkpoint import Checkpoint


def recognises(checkpoint: Checkpoint) -> bool:
    return {"encoder.weight", "encoder.bias", "W_dec", "b_dec"} <= checkpoint.tensors.keys()


def recognises_saeuron(checkpoint: Checkpoint) -> bool:
    """SAeUron's settings, which SAEmnesia keeps, go beyond sparsify's."""
    return recognises(checkpoint) and bool({"batch_topk", "sample_topk", "input_unit_norm"} & checkpoint.config.keys())


def read(checkpoint: Checkpoint) -> SparseAutoencoder:
    """TopK of every vector, also where training kept the largest of a batch or a picture: so it is run by its authors.

    Raises SAEFileError on transcoders.
    """
    config = checkpoint.config
    if config.get("transcode") or config.get("skip_connection") or "W_skip" in checkpoint.tensors:
        raise SAEFileError(
            f"{checkpoint.path} is a transcoder: it predicts one place of the model from another, so that nothing it "
            "finds can be taken out where it was found. Choose a sparse autoencoder."
        )
    W_enc = checkpoint.tensor("encoder.weight")
    for names, size in ((("d_in", "d_model"), W_enc.shape[1]), (("num_latents", "n_dirs_local"), W_enc.shape[0])):
        for name in names:
            if config.get(name, 0) not in (0, size):  # num_latents is 0 where the expansion factor tells it
                raise SAEFileError(
                    f"{checkpoint.path}: the settings beside it say {name} = {config[name]}, but its tensors {size}. "
                    "They do not belong together; download both again."
                )
    return assemble(
        checkpoint,
        config.get("activation", "topk"),
        checkpoint.count("k"),
        W_enc,
        checkpoint.tensor("encoder.bias"),
        checkpoint.tensor("W_dec"),
        checkpoint.tensor("b_dec"),
        input_norm="layer" if config.get("input_unit_norm") else "none",
    )
