"""The numbers of an evaluation: what an erasure takes out, what it leaves right, and how far it moves the pictures."""

import re
from collections.abc import Container, Mapping, Sequence

import torch

from ..prompts import LabelledPrompt, label_groups


def accuracy(prompts: Sequence[LabelledPrompt], seen: Sequence[str], group: str, chosen: Sequence[int]) -> float | None:
    """Share of the chosen pictures with labels of the group that show one of them; None if there is no such picture.

    seen: the class of this group that every picture shows; chosen: indices of pictures.
    """
    right = [seen[index] in prompts[index].labels[group] for index in chosen if prompts[index].labels.get(group)]
    return sum(right) / len(right) if right else None


def erasure_scores(
    prompts: Sequence[LabelledPrompt], seen: Mapping[str, Sequence[str]], group: str, concept: str
) -> dict[str, float | None]:
    """UA, IRA and CRA of one erased concept in per cent, as UnlearnCanvas defines them; None where nothing counts.

    UA: pictures asked for the concept that do not show it. IRA: accuracy on the other concepts of its group, averaged
    over these concepts; pictures asked for the erased one too do not count. CRA: accuracy of each other group over all
    pictures, averaged over these groups.
    prompts: one for every picture; seen: by group, the class that every picture shows.
    """
    asked = [index for index, prompt in enumerate(prompts) if concept in prompt.labels.get(group, ())]
    others = sorted({name for prompt in prompts for name in prompt.labels.get(group, ())} - {concept})
    kept, erased = [], set(asked)
    for other in others:
        with_other = (i for i, prompt in enumerate(prompts) if other in prompt.labels.get(group, ()))
        kept.append(accuracy(prompts, seen[group], group, [i for i in with_other if i not in erased]))
    everything = range(len(prompts))
    crossed = [accuracy(prompts, seen[other], other, everything) for other in label_groups(prompts) if other != group]
    still = _mean([float(seen[group][index] == concept) for index in asked])
    return {
        "UA": None if still is None else 100 * (1 - still),
        "IRA": _per_cent(_mean(kept)),
        "CRA": _per_cent(_mean(crossed)),
    }


def guard_scores(
    prompts: Sequence[LabelledPrompt], withheld: Container[int], group: str, concept: str
) -> dict[str, float | None]:
    """Per cent of the pictures that a guard against the concept withholds; None where no picture counts.

    caught: of those asked for it, by label; mistaken: of those that never mention it.
    """
    asked = [float(i in withheld) for i, prompt in enumerate(prompts) if concept in prompt.labels.get(group, ())]
    elsewhere = [float(i in withheld) for i, prompt in enumerate(prompts) if not mentions(prompt, concept)]
    return {"caught": _per_cent(_mean(asked)), "mistaken": _per_cent(_mean(elsewhere))}


def labels_of(groups: Mapping[str, Sequence[str]], concept: str) -> list[tuple[str, str]]:
    """Group and name of the labels that mean a concept as the SAE lists it, "group: name" where it has a namesake.

    groups: the labels of the prompts, by group.
    """
    labels = [(group, name) for group, names in groups.items() for name in names]
    return [(group, name) for group, name in labels if concept in (name, f"{group}: {name}")]


def mentions(prompt: LabelledPrompt, concept: str) -> bool:
    """Whether the concept is one of the labels, or stands in the text as a word of its own."""
    if any(concept in names for names in prompt.labels.values()):
        return True
    return re.search(rf"(?<!\w){re.escape(concept)}(?!\w)", prompt.prompt, re.IGNORECASE) is not None


def is_broken(prompt: LabelledPrompt, sure: dict[str, float], confidence: float) -> bool:
    """Whether no class reaches the confidence in one of the groups that the prompt has labels of.

    sure: by group, the probability of the likeliest class.
    """
    return any(sure[group] < confidence for group, names in prompt.labels.items() if names)


def broken_share(prompts: Sequence[LabelledPrompt], sure: Mapping[str, Sequence[float]], confidence: float) -> float:
    """Per cent of the pictures with labels that are broken; sure: by group, as in is_broken, for every picture."""
    broken = [
        is_broken(prompt, {group: values[index] for group, values in sure.items()}, confidence)
        for index, prompt in enumerate(prompts)
        if any(prompt.labels.values())
    ]
    return 100 * sum(broken) / len(broken)


def picture_change(originals: torch.Tensor, erased: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of every pair of pictures, in per cent of the range; uint8 [n, h, w, 3] -> fp64 [n].

    It is 0 only if the two are the same, bit for bit.
    """
    difference = (originals.short() - erased.short()).abs().flatten(1)
    return difference.double().mean(dim=1) * (100 / 255)


def frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Fréchet distance between the normal distributions fitted to two sets of features, [n, d] and [m, d]; n, m > 1.

    |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), with unbiased covariances, in fp64 (Dowson and Landau, 1982). The
    trace of the root is the sum of the singular values of X Y^T / sqrt((n - 1)(m - 1)), X and Y being the centred
    features, so that nothing is squared and no root is taken of a matrix.
    """
    first, second = first.double(), second.double()
    mean_1, mean_2 = first.mean(dim=0), second.mean(dim=0)
    x, y = (first - mean_1) / (len(first) - 1) ** 0.5, (second - mean_2) / (len(second) - 1) ** 0.5
    root = torch.linalg.svdvals(_triangle(x) @ _triangle(y).T).sum()
    distance = (mean_1 - mean_2).square().sum() + x.square().sum() + y.square().sum() - 2 * root
    return max(0.0, distance.item())


def _triangle(x: torch.Tensor) -> torch.Tensor:
    """R [min(n, d), d] with R^T R = x^T x."""
    return torch.linalg.qr(x, mode="r").R


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _per_cent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def mean_scores(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean of every score over the rows, all of the same scores, that have it."""
    return {name: _mean([row[name] for row in rows]) for name in rows[0]}
