"""CLIP as a classifier of anything that has a name: which text is nearest to the picture."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ...sae_ops.reasons import reason_of
from .judging import Classifier, ClassifierError, Judgement, fingerprint
from .network_classifier import normalised

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
TEXTS = {"style": "a picture in {} style"}
TEXT = "a picture of {}"


def open_clip(name: str, source: str, labels: dict[str, list[str]], texts: dict[str, str]) -> Classifier:
    """A CLIP model in the format of transformers: a folder, or an id on Hugging Face. Raises ClassifierError.

    The probabilities of a group are the softmax, at the model's own temperature, of the cosines between the picture
    and the texts of the group's classes (Radford et al., 2021, section 3.1.2). Features are the picture's embedding.
    """
    try:
        from transformers import CLIPModel, CLIPTokenizer
    except ImportError as error:
        raise ClassifierError(f"{name} needs transformers: pip install transformers") from error
    local = Path(source).is_dir()
    try:
        load: Any = CLIPModel.from_pretrained  # whose type leaves out that it may give two things
        model, loaded = load(source, local_files_only=local, use_safetensors=True, output_loading_info=True)
        tokenizer = CLIPTokenizer.from_pretrained(source, local_files_only=local)
        if lacking := sorted(loaded["missing_keys"]):  # it would judge with random numbers in their place
            raise ValueError(f"its weights lack {lacking[0]}, {len(lacking)} in all")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ClassifierError(
            f"{name}: there is no CLIP model ({reason_of(error)}). It must be a folder with config.json, "
            "model.safetensors and the tokenizer's files, or an id on Hugging Face such as "
            "clip:openai/clip-vit-large-patch14."
        ) from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.eval().to(device)
    written = {group: [_text(group, texts).replace("{}", label) for label in names] for group, names in labels.items()}
    texts_in_all = [text for group in written.values() for text in group]
    tokens = tokenizer(texts_in_all, padding=True, return_tensors="pt")
    room: int = model.config.text_config.max_position_embeddings
    named = [(group, label) for group, names in labels.items() for label in names]
    for (group, label), own in zip(named, tokens["attention_mask"].sum(dim=1).tolist(), strict=True):
        if own > room:
            raise ClassifierError(
                f"{name} reads texts of up to {room} tokens, but that of '{label}' in the group '{group}' has {own}. "
                "Shorten this label in the prompts, or the group's text in --clip-text."
            )
    for text, read in zip(texts_in_all, tokens["input_ids"], strict=True):
        if not tokenizer.decode(read, skip_special_tokens=True).strip():  # one without files knows no letter
            raise ClassifierError(
                f"{name}: its tokenizer can read nothing in '{text}'. Put the tokenizer's files (tokenizer.json, or "
                "vocab.json and merges.txt) into its folder."
            )
    size: int = model.vision_model.config.image_size

    @torch.inference_mode()
    def judge(pictures: torch.Tensor) -> Judgement:
        pixels = normalised(pictures, size, MEAN, STD, device)
        seen = model(**tokens.to(device), pixel_values=pixels)
        logits = seen.logits_per_image.float().cpu().split([len(names) for names in labels.values()], dim=1)
        return Judgement(
            {group: tuple(names) for group, names in labels.items()},
            {group: part.softmax(dim=1) for group, part in zip(labels, logits, strict=True)},
            seen.image_embeds.float().cpu(),
        )

    weights = [(str(file), file.stat().st_mtime_ns) for file in sorted(Path(source).glob("*.safetensors"))]
    return Classifier(name, fingerprint(name, written, weights), judge)


def _text(group: str, texts: dict[str, str]) -> str:
    return texts.get(group, TEXTS.get(group, TEXT))
