"""What is in an SAE file, as text for people."""

from pathlib import Path

from .autoencoder import WITH_K
from .concepts import Concept
from .formats import is_ours, read_foreign
from .sae_file import SAEFileError, SAEHeader, read_header

EXPLAINED = 0.6
"""Concepts whose latents explain less of what their name brings are named."""
QUALITY = {
    "fvu": "share of the variance left unexplained (FVU)",
    "l0": "latents that fire for a vector (L0)",
    "never_fired": "latents that never fired",
}
"""Facts of a validation, in words."""


def describe_file(path: Path) -> str:
    """Describes an SAE file, ours or another tool's, without reading weights if the header says all.

    Raises SAEFileError.
    """
    if is_ours(path):
        header = read_header(path)
        try:
            return describe(path, header)
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # facts may be anything
            raise SAEFileError(
                f"{path}: what it says of its training cannot be understood ({error}). It can erase all the same; to "
                "see what is in it, train or download it again."
            ) from error
    foreign = read_foreign(path)
    how = f'{foreign.format}, to be imported with: sae-eraser import "{path}" --out FILE'
    return f"{how}\n{describe(path, foreign.header)}"


def describe(path: Path, header: SAEHeader) -> str:
    """Place, size, quality, training and concepts, a line each."""
    sae, training = header.autoencoder, header.training
    place = f"{header.model_family or 'unknown model'}, {header.hookpoint or 'unknown hookpoint'}"
    kept = f", k = {sae.k}" if sae.activation in WITH_K else ""
    lines = [
        f"{path}: {place} ({header.hooked})",
        f"{sae.n_latents} latents of width {sae.d_in}, {sae.activation}" + kept,
    ]
    if header.branch == "uncond":
        lines.append("tells what is drawn, whatever the prompt says (branch uncond); it cannot erase")
    if _spares_look_alikes(training):
        lines.append(
            "erases from the step on in which a picture shows more of a concept than nearly all pictures of each other "
            "concept do"
        )
    if sae.unsupported:
        lines.append(f"cannot erase: its {sae.unsupported} is not supported in edits")
    lines += [f"{QUALITY.get(name, name)}: {value}" for name, value in training.get("validation", {}).items()]
    if "images" in training:
        sampling = _sampling(training.get("sampling", {}))
        lines.append(f"trained on {training['images']} pictures{sampling}; a tenth of them held out, to measure it")
    if "imported" in training:
        lines.append(f"imported from {training['imported']['format']}")
    if "url" in training:
        lines.append(f"url: {training['url']}")
    for group in dict.fromkeys(concept.group for concept in header.concepts):
        lines += [_line(concept, header.erases) for concept in header.concepts if concept.group == group]
    if not header.concepts:
        lines.append("no concepts")
    weak = [concept.name for concept in header.concepts if concept.facts.get("explained", 1) < EXPLAINED]
    if weak:
        lines.append(
            f"May erase little: {', '.join(weak)}. Their latents explain less than {EXPLAINED:.0%} of what these names "
            "bring at this block. Train longer, with a higher learning rate, or at a block that decides more of it "
            "(Locate Concept); or without the guidance loss: collect with the branch cond (or, on the command line, "
            "--guidance-weight 0)."
        )
    return "\n".join(lines)


def _spares_look_alikes(training: dict) -> bool:
    """Whether this training or one that it has extended was told to."""
    own = training.get("spare_look_alikes", False)
    return own or ("extended" in training and _spares_look_alikes(training["extended"]))


def _sampling(sampling: dict) -> str:
    if not {"width", "height", "steps", "cfg", "sampler_name"} <= sampling.keys():
        return ""
    return " of {width} x {height}, {steps} steps of {sampler_name}, cfg {cfg}".format(**sampling)


def _line(concept: Concept, erases: bool) -> str:
    """accuracy: of telling pictures with the concept by its latents. separation: by how much these fire more there.

    explained: how much of what its name brings these explain.
    """
    named = {"accuracy": "balanced_accuracy", "separation": "separation", "explained": "explained"}
    said = [f"{name} {concept.facts[fact]}" for name, fact in named.items() if concept.facts.get(fact) is not None]
    if erases:
        said += [f"turn {concept.turn:.3g}", f"multiplier {concept.multiplier:.3g}"]
    first, *others = concept.latents
    said.append(f"latent {first}{f' and {len(others)} more' if others else ''}")
    return f"  {concept.group}: {concept.name:<12} {', '.join(said)}"
