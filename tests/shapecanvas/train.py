"""Trains ShapeCanvas: pictures, classifier, autoencoder, diffusion model; writes the weights of worlds.py.

    PYTHONPATH=tests:.comfyui python -m shapecanvas.train --work output/shapecanvas

Every stage goes on where it was stopped; with the same seed and machine the result is the same.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from checkout import import_root

from .training.autoencoder import PATCH, build_autoencoder, principal_patches, train_autoencoder
from .training.classifier import accuracy, train_classifier
from .training.diffusion import TEXT_ENCODER, UNET, part_of, train_diffusion
from .training.drawings import as_input, load_pictures
from .training.fitting import bf16, save_atomically
from .worlds import CHECKPOINT, CLASSIFIER

AUTOENCODER = "first_stage_model."
"""What names in a checkpoint begin with, as UNET and TEXT_ENCODER."""


def half(state: dict, prefix: str = "") -> dict:
    """The tensors in fp16, their names with this before them."""
    return {prefix + name: tensor.half().contiguous() for name, tensor in state.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for pictures and checkpoints (1 GB)")
    parser.add_argument("--start", type=Path, help="a checkpoint to go on from, whose autoencoder is kept")
    parser.add_argument("--per-pair", type=int, default=300, help="pictures drawn of every object x style pair")
    parser.add_argument("--diffusion-steps", type=int, default=5000)
    parser.add_argument("--decoder-steps", type=int, default=6000)
    parser.add_argument("--encoder-steps", type=int, default=1200)
    parser.add_argument("--classifier-steps", type=int, default=800)
    arguments = parser.parse_args()
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)

    from comfy.cli_args import args

    args.cpu = True
    import_root()
    torch.use_deterministic_algorithms(True)  # sums over words, for instance, are otherwise made in any order
    from comfy.ldm.modules import attention

    attention.optimized_attention = attention.attention_basic  # the fastest of ComfyUI's for 64 positions

    pictures, objects, styles = load_pictures(work, arguments.per_pair, first_seed=0)
    start = load_file(arguments.start) if arguments.start else {}
    vae = build_autoencoder().eval()
    if start:
        vae.load_state_dict(part_of(start, AUTOENCODER))

        def encode(inputs):
            with bf16(), torch.no_grad():
                return vae.taesd_encoder(inputs).float()

    else:
        weight, bias = principal_patches(pictures)

        def encode(inputs):
            return F.conv2d(inputs, weight, bias, stride=PATCH)

    chunks = tqdm(pictures.split(1024), desc="encoding")
    latents = torch.cat([encode(as_input(chunk)).half() for chunk in chunks])

    unet, text_encoder = train_diffusion(work, latents, arguments.per_pair, arguments.diffusion_steps, start)
    if not start:
        train_autoencoder(work, vae, pictures, encode, arguments.decoder_steps, arguments.encoder_steps)
    classifier = train_classifier(work, arguments.per_pair, arguments.classifier_steps)

    CHECKPOINT.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = {
        **half(unet.state_dict(), UNET),
        **half(text_encoder.transformer.state_dict(), TEXT_ENCODER),
        **half(vae.state_dict(), AUTOENCODER),
    }
    save_atomically(save_file, checkpoint, CHECKPOINT)
    save_atomically(save_file, half(classifier.state_dict()), CLASSIFIER)

    unseen, objects, styles = load_pictures(work, 20, first_seed=10_000_000)
    inputs = as_input(unseen)
    print(
        "classifier on unseen drawings: object {:.4f}, style {:.4f}".format(
            *accuracy(classifier, inputs, objects, styles)
        )
    )
    with torch.inference_mode():
        drawn = torch.cat([vae.taesd_decoder(encode(chunk)).clamp(0, 1) for chunk in inputs.split(128)])
    print(
        "... after the autoencoder:     object {:.4f}, style {:.4f}".format(
            *accuracy(classifier, drawn, objects, styles)
        )
    )


if __name__ == "__main__":
    main()
