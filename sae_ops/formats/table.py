"""All formats, in the order in which they are tried."""

from collections.abc import Callable
from dataclasses import dataclass

from ..autoencoder import SparseAutoencoder
from . import dictionary_learning, openai, overcomplete, saelens, sparsify
from .checkpoint import Checkpoint


@dataclass(frozen=True)
class Format:
    """One way of writing an SAE."""

    name: str
    recognises: Callable[[Checkpoint], bool]
    read: Callable[[Checkpoint], SparseAutoencoder]
    hooked: str = "output"
    """Which tensor of the block such SAEs were trained on, as in SAEHeader."""
    model_family: str = ""
    """The family for which all SAEs in this format are made; "" if there are several."""


FORMATS = (
    Format("SAELens", saelens.recognises, saelens.read),
    Format("dictionary_learning", dictionary_learning.recognises, dictionary_learning.read),
    Format("SAeUron", sparsify.recognises_saeuron, sparsify.read, model_family="SD15"),
    Format("sparsify", sparsify.recognises, sparsify.read),
    Format("OpenAI", openai.recognises, openai.read),
    Format("sdxl-unbox", openai.recognises_sdxl_unbox, openai.read_sdxl_unbox, hooked="residual"),
    Format("overcomplete", overcomplete.recognises, overcomplete.read),
)
