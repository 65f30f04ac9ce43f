"""Classifiers that are networks of torchvision or timm, described by a JSON file beside their weights."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from ...sae_ops.formats.checkpoint import open_checkpoint
from .judging import Classifier, ClassifierError, Judgement, fingerprint

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EXAMPLE = '{"object": {"model": "torchvision/resnet50", "weights": "objects.safetensors", "classes": ["star", "ring"]}}'


def open_networks(file: Path) -> Classifier:
    """One network a group. Raises ClassifierError; SAEFileError for weights that cannot be read.

    The JSON is {group: {"model": "torchvision/NAME" or "timm/NAME", "weights": file beside it, "classes": [names]}},
    and if they differ from ImageNet's, "size": 224, "mean" and "std" of the input. Weights are .safetensors, or what
    torch.save wrote; nothing in them is run. Features are what the last linear layer sees.
    """
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(described, dict) or not described:
            raise ValueError("it holds no groups")
    except (OSError, ValueError) as error:
        raise ClassifierError(f"The classifier {file} cannot be read ({error}). Write for example {EXAMPLE}") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        networks = {group: _Network(file, group, facts, device) for group, facts in described.items()}
    except (AttributeError, TypeError) as error:  # text where a list belongs, or the like
        raise ClassifierError(f"The classifier {file} cannot be read ({error}). Write for example {EXAMPLE}") from error

    def judge(pictures: torch.Tensor) -> Judgement:
        judged = {group: network(pictures) for group, network in networks.items()}
        return Judgement(
            {group: network.classes for group, network in networks.items()},
            {group: probabilities for group, (probabilities, _) in judged.items()},
            torch.cat([features for _, features in judged.values()], dim=1),
        )

    weights = [network.weights.stat() for network in networks.values()]
    return Classifier(str(file), fingerprint("networks", file, [(s.st_size, s.st_mtime_ns) for s in weights]), judge)


def normalised(pictures: torch.Tensor, size: int, mean: tuple, std: tuple, device: torch.device) -> torch.Tensor:
    """uint8 [n, h, w, 3] -> fp32 [n, 3, size, size], the whole picture, as networks want it."""
    scaled = pictures.to(device).movedim(-1, 1).float() / 255
    if scaled.shape[-2:] != (size, size):
        scaled = functional.interpolate(scaled, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    mean_, std_ = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, std))
    return (scaled - mean_) / std_


class _Network:
    """The network of one group, and how its input is made."""

    def __init__(self, file: Path, group: str, facts: object, device: torch.device):
        if not isinstance(facts, dict) or not {"model", "weights", "classes"} <= facts.keys():
            raise ClassifierError(f"{file}: '{group}' lacks model, weights or classes. Write for example {EXAMPLE}")
        self.classes = tuple(facts["classes"])
        self.weights = file.parent / facts["weights"]
        self._size, self._device = facts.get("size", 224), device
        self._mean, self._std = tuple(facts.get("mean", MEAN)), tuple(facts.get("std", STD))
        self._model = _build(file, facts["model"], len(self.classes))
        try:
            self._model.load_state_dict(_tensors(self.weights))
        except RuntimeError as error:
            lines = str(error).strip().splitlines()
            raise ClassifierError(
                f"{self.weights} does not fit {facts['model']} with {len(self.classes)} classes: {lines[-1].strip()}. "
                "Name the weights, model and classes that belong together."
            ) from error
        self._model.eval().to(device)
        linear = [layer for layer in self._model.modules() if isinstance(layer, nn.Linear)]
        last = [layer for layer in linear if layer.out_features == len(self.classes)]
        if not last:
            raise ClassifierError(f"{file}: {facts['model']} does not end in a linear layer. Choose another network.")
        last[-1].register_forward_pre_hook(self._keep_features)

    def _keep_features(self, layer: nn.Module, inputs: tuple) -> None:
        self._features = inputs[0]

    @torch.inference_mode()
    def __call__(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities [n, classes] and features [n, d]."""
        logits = self._model(normalised(pictures, self._size, self._mean, self._std, self._device))
        return logits.softmax(dim=1).cpu(), self._features.flatten(1).float().cpu()


def _build(file: Path, model: str, classes: int) -> nn.Module:
    library, _, name = model.partition("/")
    try:
        if library == "torchvision":
            import torchvision

            return torchvision.models.get_model(name, weights=None, num_classes=classes)
        if library == "timm":
            import timm

            return timm.create_model(name, pretrained=False, num_classes=classes)
    except ImportError as error:
        raise ClassifierError(f"{file} needs {library}: pip install {library}") from error
    except (ValueError, RuntimeError, TypeError) as error:
        raise ClassifierError(f"{file}: {library} has no usable model '{name}' ({error}). Choose another.") from error
    raise ClassifierError(f"{file}: '{model}' is no network. Write torchvision/NAME or timm/NAME.")


def _tensors(path: Path) -> Mapping[str, torch.Tensor]:
    """The weights, also where a training has put them into a dictionary of other things."""
    checkpoint = open_checkpoint(path)
    inner = checkpoint.values.get("model_state_dict")
    return inner if isinstance(inner, Mapping) else checkpoint.tensors
