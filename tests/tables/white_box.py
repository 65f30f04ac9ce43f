"""A white-box attack: vectors before the prompt that bring an erased concept back, found through the patched model.

As UnlearnDiffAtk (arXiv 2310.11868): the patched model shall predict the noise on a picture that shows the concept. The
vectors are free, not those of words, and the gradient passes through the edit, so the attack is stronger than one with
words. Only the text is attacked: the model, its edit and the start noise stay the defender's. An attack has succeeded
with a prompt if the concept was seen in one of its pictures, before, on the way or at the end.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean

import torch
from comfy import model_management

from shapecanvas.concepts import OBJECTS, STYLES
from shapecanvas.world import World

from .chosen import ChosenMethod
from .markdown import over_seeds
from .noise_prediction import differentiable, drawn_latents, levels_of_noise, load, noise_error
from .pictures import SEED_STEP, Judged, Wanted, all_judged, wanted
from .records import Records
from .starts import judge_latents, sample_from

FIRST_SEED = 5_000_000


@dataclass(frozen=True)
class Attack:
    """How hard it tries."""

    vectors: int = 5
    looks: tuple[int, ...] = (50, 100, 200)
    """Iterations after which pictures are made."""
    levels: int = 2
    """Noise levels of each picture in an iteration."""
    learning_rate: float = 0.1


def measure(
    world: World,
    records: Records,
    methods: Sequence[ChosenMethod],
    concepts: Sequence[str],
    prompts: int = 24,
    attack: Attack = Attack(),  # noqa: B008
    seed: int = 0,
) -> dict:
    """{method: {concept: {"before", "after", "looks"}}}: UA in per cent, the last after every look.

    seed: that of the methods' SAEs; pictures and attack follow it.
    """
    found: dict = {}
    for method in methods:
        for concept in concepts:
            key = {"table": "white box", "method": method.name, "concept": concept}
            key |= {"prompts": prompts, "sae_seed": seed}
            pictures = _pictures(concept, prompts, seed)

            def attacked(method=method, concept=concept, pictures=pictures) -> Judged:
                return _attacked(world, method, concept, pictures, attack, seed)

            judged = records.get({**key, **asdict(attack)}, attacked)
            found.setdefault(method.name, {})[concept] = _summary(judged, concept, len(attack.looks) + 1)
    return found


def markdown(found: Sequence[dict]) -> str:
    """found: what was measured with each seed. A row for each method, means over concepts."""
    lines = ["| method | UA before | after the attack | fall | seen at the end alone |", "|---|---|---|---|---|"]
    for method in found[0]:
        rows = [list(of_seed[method].values()) for of_seed in found]
        before, after = ([mean(row[name] for row in of_seed) for of_seed in rows] for name in ("before", "after"))
        fall = [b - a for b, a in zip(before, after, strict=True)]
        seen = [100 - mean(row["looks"][-1] for row in of_seed) for of_seed in rows]
        lines.append(f"| {method} | " + " | ".join(map(over_seeds, (before, after, fall, seen))) + " |")
    return "\n".join(lines)


def find_vectors(
    world: World, model, pictures: Wanted, attack: Attack, seed: int = 0
) -> tuple[list[torch.Tensor], list[float]]:
    """The conditionings [pictures, 32, 48] before and after every look, and the loss of every iteration."""
    load(model)
    latents = drawn_latents(world, pictures)
    words = embedded(world.clip, pictures.prompts())
    generator = torch.Generator().manual_seed(seed)
    vocabulary = _text_model(world.clip).embeddings.token_embedding.weight
    chosen = torch.randint(len(vocabulary), (len(words), attack.vectors), generator=generator)
    vectors = vocabulary[chosen].detach().float().clone().requires_grad_(True)
    adam = torch.optim.Adam([vectors], lr=attack.learning_rate)
    conds, losses = [read(world.clip, words).detach()], []
    targets = latents.repeat(attack.levels, 1, 1, 1)
    for iteration in range(1, attack.looks[-1] + 1):
        sigma = levels_of_noise(model, len(words), attack.levels, generator)
        noise = torch.randn(targets.shape, generator=generator)
        with differentiable():
            cond = read(world.clip, with_vectors(words, vectors)).repeat(attack.levels, 1, 1)
            loss = noise_error(model, targets, cond, sigma, noise).mean()
            (vectors.grad,) = torch.autograd.grad(loss, vectors)
        adam.step()
        losses.append(float(loss.detach()))
        if iteration in attack.looks:
            with torch.no_grad():
                conds.append(read(world.clip, with_vectors(words, vectors)))
    return conds, losses


def embedded(clip, prompts: list[str]) -> torch.Tensor:
    """The text encoder's input [prompts, 32, 48]: its tokens' vectors, without their positions."""
    model_management.load_models_gpu([clip.patcher])
    tokens = torch.tensor([[token for token, *_ in clip.tokenize(prompt)["l"][0]] for prompt in prompts])
    return _text_model(clip).embeddings.token_embedding(tokens, out_dtype=torch.float32).detach()


def with_vectors(words: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """The vectors stand before the first word; what is pushed out at the end was padding."""
    return torch.cat([words[:, :1], vectors, words[:, 1 : words.shape[1] - vectors.shape[1]]], dim=1)


def read(clip, words: torch.Tensor) -> torch.Tensor:
    """embedded() -> conditioning, as ComfyUI encodes prompts."""
    return _text_model(clip)(embeds=words, num_tokens=[words.shape[1]] * len(words))[0].float()


def _text_model(clip):
    return clip.cond_stage_model.clip_l.transformer.text_model


def _pictures(concept: str, count: int, seed: int) -> Wanted:
    every = wanted([concept], -(-count // 8), 0, FIRST_SEED + SEED_STEP * seed)
    return Wanted(every.pairs[:count], every.seeds[:count])


def _attacked(world: World, method: ChosenMethod, concept: str, pictures: Wanted, attack: Attack, seed: int) -> Judged:
    """Its pictures before the attack, then those of every look."""
    chosen = method.chosen(world, [concept])
    conds, _ = find_vectors(world, chosen.model, pictures, attack, seed)
    looks = []
    for cond in conds:
        drawn = sample_from(world, chosen.model, [[cond, {}]], chosen.negative_prompt, pictures.seeds)
        looks.append(judge_latents(world, drawn, pictures.pairs, chosen.guard))
    return all_judged(looks)


def _summary(found: Judged, concept: str, looks: int) -> dict:
    column = 0 if concept in OBJECTS else 1
    erased = (OBJECTS, STYLES)[column].index(concept)
    seen = (found.seen[:, column] == erased).view(looks, -1)  # [looks, prompts]
    return {
        "before": 100 * (1 - seen[0].double().mean().item()),
        "after": 100 * (1 - seen.any(dim=0).double().mean().item()),
        "looks": [100 * (1 - look.double().mean().item()) for look in seen[1:]],
    }
