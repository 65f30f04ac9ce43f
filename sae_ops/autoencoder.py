"""The sparse autoencoder: one class for training and for erasing, whatever its activation function."""

from dataclasses import dataclass

import torch
from torch import nn

ACTIVATIONS = ("topk", "batchtopk", "jumprelu", "relu")
IMPORTED_ACTIVATIONS = ("groupmax",)
"""Found in SAEs of other tools only: neither trained nor edited here."""
WITH_K = ("topk", "batchtopk", "groupmax")
"""Those that keep k latents for each vector."""
INPUT_NORMS = ("none", "layer", "length")


@dataclass(frozen=True)
class SAEConfig:
    """What the weights alone do not say."""

    d_in: int
    """Width of one activation vector."""
    n_latents: int
    activation: str = "batchtopk"
    """"topk": the k largest of every vector. "batchtopk": the k * B largest of a batch of B while training, a fixed
    threshold afterwards. "jumprelu": a threshold for every latent. "relu": whatever is positive. "groupmax": the
    largest of each of k groups of neighbouring latents."""
    k: int = 32
    """Latents kept for each vector (topk, batchtopk, groupmax)."""
    input_norm: str = "none"
    """What every vector is divided by, on its own and before anything else: "layer": its standard deviation, after its
    mean was taken off. "length": its root mean square. SAEs of other tools only: neither trained nor edited here."""

    def __post_init__(self):
        known = ACTIVATIONS + IMPORTED_ACTIVATIONS
        if self.activation not in known:
            raise ValueError(f"Unknown activation '{self.activation}'; known are {', '.join(known)}.")
        for name in ("d_in", "n_latents", "k"):
            if type(getattr(self, name)) is not int:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be a whole number.")
        for name in ("d_in", "n_latents"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if self.d_in * self.n_latents >= 2**60:
            raise ValueError(f"{self.n_latents} latents of width {self.d_in} are more than any memory holds.")
        if not 0 < self.k <= self.n_latents:
            raise ValueError(f"k is {self.k}, but must lie between 1 and the number of latents, {self.n_latents}.")
        if self.activation == "groupmax" and self.n_latents % self.k:
            raise ValueError(f"{self.n_latents} latents cannot be divided into k = {self.k} equal groups.")
        if self.input_norm not in INPUT_NORMS:
            raise ValueError(f"Unknown input norm '{self.input_norm}'; known are {', '.join(INPUT_NORMS)}.")

    @property
    def unsupported(self) -> str | None:
        """What edits do not support of it; None if concepts can be erased with it."""
        if self.input_norm != "none":
            return "norm of every vector"
        return None if self.activation in ACTIVATIONS else self.activation


class SparseAutoencoder(nn.Module):
    """x [..., d] -> latents z [..., n] -> reconstruction [..., d].

    With x~ = (x - input_shift) * input_scale,

        pre_acts = W_enc (x~ - b_dec) + b_enc,  z = activation(ReLU(pre_acts)),  x^ = z W_dec + b_dec,

    and x^ in the units of x is x^ / input_scale + input_shift. Rows of W_dec have unit norm after training here.
    (SAeUron, arXiv 2501.18052; BatchTopK, arXiv 2412.06410.)
    """

    input_shift: torch.Tensor
    input_scale: torch.Tensor
    threshold: torch.Tensor

    def __init__(self, config: SAEConfig):
        super().__init__()
        self.config = config
        n, d = config.n_latents, config.d_in
        self.W_enc = nn.Parameter(torch.zeros(n, d))
        self.b_enc = nn.Parameter(torch.zeros(n))
        self.W_dec = nn.Parameter(torch.zeros(n, d))
        self.b_dec = nn.Parameter(torch.zeros(d))
        self.register_buffer("input_shift", torch.zeros(d))
        self.register_buffer("input_scale", torch.ones(()))
        # The smallest kept activation: one number, or one for each latent with jumprelu. In the units of pre_acts.
        self.register_buffer("threshold", torch.zeros(n if config.activation == "jumprelu" else ()))

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        match self.config.input_norm:
            case "layer":
                mean, deviation = _own_frame(x)
                x = (x - mean) / (deviation + 1e-5)
            case "length":
                x = x / _own_length(x)
        return (x - self.input_shift) * self.input_scale

    def pre_acts(self, x: torch.Tensor) -> torch.Tensor:
        """[..., d] -> [..., n], before any ReLU: the true logits of the supervised loss."""
        return nn.functional.linear(self.normalise(x) - self.b_dec, self.W_enc, self.b_enc)

    def activate(self, pre_acts: torch.Tensor) -> torch.Tensor:
        """pre_acts [..., n] -> latents [..., n], as at inference."""
        positive = pre_acts.relu()
        if self.config.activation == "relu":
            return positive
        if self.config.activation == "topk":
            values, indices = positive.topk(self.config.k, dim=-1, sorted=False)
            return torch.zeros_like(positive).scatter_(-1, indices, values)
        if self.config.activation == "groupmax":
            values, indices = positive.unflatten(-1, (self.config.k, -1)).max(dim=-1, keepdim=True)
            groups = torch.zeros_like(positive).unflatten(-1, (self.config.k, -1))
            return groups.scatter_(-1, indices, values).flatten(-2)
        return positive * (positive > self.threshold)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """[..., d] -> latents [..., n], at least 0, in the units of pre_acts."""
        return self.activate(self.pre_acts(x))

    def decode(self, z: torch.Tensor, x: torch.Tensor | None = None) -> torch.Tensor:
        """Latents [..., n] -> reconstruction [..., d] in the units of x.

        x: what was encoded [..., d]; needed if every vector has a norm of its own. Raises ValueError without.
        """
        decoded = (z @ self.W_dec + self.b_dec) / self.input_scale + self.input_shift
        if self.config.input_norm == "none":
            return decoded
        if x is None:
            raise ValueError("This SAE normalises every vector by itself; decoding needs the vectors as well.")
        if self.config.input_norm == "length":
            return decoded * _own_length(x)
        mean, deviation = _own_frame(x)
        return decoded * deviation + mean

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(x), x)


def _own_frame(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of every vector, [..., 1]."""
    return x.mean(dim=-1, keepdim=True), x.std(dim=-1, keepdim=True)


def _own_length(x: torch.Tensor) -> torch.Tensor:
    """Root mean square of every vector, [..., 1], above zero."""
    return x.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=1e-12)
