"""The small world's classifier, as `sae-eraser evaluate --classifier tests/shapecanvas_judge.py:judge` takes it."""

import torch

from shapecanvas.classifier import load_classifier
from shapecanvas.concepts import OBJECTS, STYLES

model = load_classifier()


@torch.inference_mode()
def judge(pictures: torch.Tensor) -> tuple[dict, torch.Tensor]:
    """Pictures, uint8 [n, 64, 64, 3] -> names and probabilities of objects and styles, and features [n, 128]."""
    features = model.features(pictures.movedim(-1, 1) / 255)
    objects, styles = (head(features).softmax(dim=1) for head in (model.object_head, model.style_head))
    return {"object": (OBJECTS, objects), "style": (STYLES, styles)}, features
