"""Training the classifier, which judges what is drawn."""

from pathlib import Path

import torch
import torch.nn.functional as F

from ..classifier import Classifier
from .drawings import as_input, load_pictures
from .fitting import bf16, fit


def train_classifier(work: Path, per_pair: int, steps: int) -> Classifier:
    pictures, objects, styles = load_pictures(work, per_pair, first_seed=0)
    torch.manual_seed(0)
    model = Classifier().to(memory_format=torch.channels_last)

    def loss_of(step, generator):
        batch = torch.randint(len(pictures), (128,), generator=generator)
        inputs = as_input(pictures[batch])
        for _ in range(step % 4):  # sampled pictures are a little softer than drawn ones
            inputs = F.avg_pool2d(inputs, 3, stride=1, padding=1, count_include_pad=False)
        noise = torch.rand((len(batch), 1, 1, 1), generator=generator) * 0.1
        inputs = inputs + noise * torch.randn(inputs.shape, generator=generator)
        with bf16():
            object_logits, style_logits = model(inputs)
        return F.cross_entropy(object_logits.float(), objects[batch]) + F.cross_entropy(
            style_logits.float(), styles[batch]
        )

    fit("classifier", work, {"model": model}, loss_of, steps, 2e-3)
    return model


@torch.inference_mode()
def accuracy(
    model: Classifier, inputs: torch.Tensor, objects: torch.Tensor, styles: torch.Tensor
) -> tuple[float, float]:
    logits = [model(chunk) for chunk in inputs.split(256)]
    right_objects = torch.cat([o.argmax(1) for o, _ in logits]) == objects
    right_styles = torch.cat([s.argmax(1) for _, s in logits]) == styles
    return right_objects.float().mean().item(), right_styles.float().mean().item()
