"""The judge: a small convolutional network with one head for the object and one for the style."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from .concepts import OBJECTS, STYLES
from .worlds import CLASSIFIER


class Classifier(nn.Module):
    """Pictures [n, 3, 64, 64] in 0..1 -> features [n, 128] -> object logits [n, objects] and style logits [n, 8]."""

    def __init__(self):
        super().__init__()
        layers, width_in = [], 3
        for width in (32, 64, 128):
            for _ in range(2):
                layers += [nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                width_in = width
            layers.append(nn.MaxPool2d(2))
        self.body = nn.Sequential(*layers)
        self.object_head = nn.Linear(128, len(OBJECTS))
        self.style_head = nn.Linear(128, len(STYLES))

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.body(pictures * 2 - 1).amax(dim=(2, 3))

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(pictures)
        return self.object_head(features), self.style_head(features)


def load_classifier(path: Path = CLASSIFIER) -> Classifier:
    model = Classifier()
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return model.eval()


@torch.inference_mode()
def classify(model: Classifier, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """ComfyUI images [n, 64, 64, 3] in 0..1 -> indices into OBJECTS and STYLES, each [n]."""
    objects, styles = model(images.movedim(-1, 1).float())
    return objects.argmax(dim=1), styles.argmax(dim=1)
