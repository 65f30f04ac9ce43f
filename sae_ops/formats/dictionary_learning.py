"""dictionary_learning: ae.pt, and config.json with {"trainer": {"dict_class": ...}}.

The class is told from the tensors, except that only the settings tell TopK from BatchTopK.
"""

from ..autoencoder import SparseAutoencoder
from ..sae_file import SAEFileError
from .assemble import assemble, unit_decoder
from .checkpoint import Checkpoint
from .saelens import ungated


def recognises(checkpoint: Checkpoint) -> bool:
    names = checkpoint.tensors.keys()
    if not names & {"encoder.weight", "W_enc"}:
        return False
    own = ({"group_sizes"}, {"gate_bias"}, {"k", "threshold"}, {"bias", "decoder.weight"})
    return "dict_class" in _trainer(checkpoint) or any(those <= names for those in own)


def read(checkpoint: Checkpoint) -> SparseAutoencoder:
    """As their load_dictionary does. Raises SAEFileError on classes that it does not know."""
    names = checkpoint.tensors.keys()
    if "gate_bias" in names:
        return _gated(checkpoint)
    if "group_sizes" in names:
        return _matryoshka(checkpoint)
    if {"encoder.weight", "k", "threshold"} <= names:
        return _topk(checkpoint)
    if "bias" in names:
        return _relu(checkpoint)
    if "decoder.bias" in names:
        return _april_update(checkpoint)
    if {"W_enc", "threshold"} <= names:
        return _jumprelu(checkpoint)
    raise SAEFileError(
        f"{checkpoint.path} is a '{_trainer(checkpoint).get('dict_class')}' of dictionary_learning, which is unknown "
        "here. Choose another SAE, or update this pack."
    )


def _trainer(checkpoint: Checkpoint) -> dict:
    trainer = checkpoint.config.get("trainer")
    return trainer if isinstance(trainer, dict) else {}


def _gated(checkpoint: Checkpoint) -> SparseAutoencoder:
    W_enc, b_enc, threshold = ungated(
        checkpoint.tensor("encoder.weight"),
        checkpoint.tensor("gate_bias"),
        checkpoint.tensor("r_mag"),
        checkpoint.tensor("mag_bias"),
    )
    W_dec, b_dec = checkpoint.tensor("decoder.weight").T, checkpoint.tensor("decoder_bias")
    return assemble(checkpoint, "jumprelu", None, W_enc, b_enc, W_dec, b_dec, threshold)


def _matryoshka(checkpoint: Checkpoint) -> SparseAutoencoder:
    """All groups together are a plain BatchTopK autoencoder."""
    W_enc, W_dec = checkpoint.tensor("W_enc").T, checkpoint.tensor("W_dec")
    b_enc, b_dec = checkpoint.tensor("b_enc"), checkpoint.tensor("b_dec")
    return assemble(checkpoint, "batchtopk", _k(checkpoint), W_enc, b_enc, W_dec, b_dec, _threshold(checkpoint))


def _topk(checkpoint: Checkpoint) -> SparseAutoencoder:
    batch = {"BatchTopKSAE": True, "AutoEncoderTopK": False}.get(_trainer(checkpoint).get("dict_class", ""))
    if batch is None:
        raise SAEFileError(
            f"{checkpoint.path} may be TopK or BatchTopK, which its tensors do not tell. "
            "Put the config.json that came with it beside it."
        )
    W_enc, W_dec = checkpoint.tensor("encoder.weight"), checkpoint.tensor("decoder.weight").T
    b_enc, b_dec = checkpoint.tensor("encoder.bias"), checkpoint.tensor("b_dec")
    if batch:
        return assemble(checkpoint, "batchtopk", _k(checkpoint), W_enc, b_enc, W_dec, b_dec, _threshold(checkpoint))
    return assemble(checkpoint, "topk", _k(checkpoint), W_enc, b_enc, W_dec, b_dec)


def _relu(checkpoint: Checkpoint) -> SparseAutoencoder:
    """Its latents are counted in decoder rows of unit norm."""
    W_enc, b_enc, W_dec = unit_decoder(
        checkpoint.tensor("encoder.weight"), checkpoint.tensor("encoder.bias"), checkpoint.tensor("decoder.weight").T
    )
    return assemble(checkpoint, "relu", None, W_enc, b_enc, W_dec, checkpoint.tensor("bias"))


def _april_update(checkpoint: Checkpoint) -> SparseAutoencoder:
    W_enc, W_dec = checkpoint.tensor("encoder.weight"), checkpoint.tensor("decoder.weight").T
    b_enc, b_dec = checkpoint.tensor("encoder.bias"), checkpoint.tensor("decoder.bias")
    return assemble(checkpoint, "relu", None, W_enc, b_enc, W_dec, b_dec, subtracts_b_dec=False)


def _jumprelu(checkpoint: Checkpoint) -> SparseAutoencoder:
    W_enc, W_dec = checkpoint.tensor("W_enc").T, checkpoint.tensor("W_dec")
    b_enc, b_dec = checkpoint.tensor("b_enc"), checkpoint.tensor("b_dec")
    threshold = checkpoint.tensor("threshold")
    return assemble(checkpoint, "jumprelu", None, W_enc, b_enc, W_dec, b_dec, threshold, subtracts_b_dec=False)


def _k(checkpoint: Checkpoint) -> int:
    return int(checkpoint.tensor("k"))


def _threshold(checkpoint: Checkpoint):
    """-1 means that none was set; whatever is positive is kept then."""
    return checkpoint.tensor("threshold").clamp(min=0)
