"""A method whose settings are chosen, as the tables of attacks and of generality see it."""

from collections.abc import Callable
from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher

from shapecanvas.world import World

from .guard import Guard


@dataclass(frozen=True)
class Chosen:
    """How some concepts are erased."""

    model: ModelPatcher
    negative_prompt: str = ""
    guard: Guard | None = None


@dataclass(frozen=True)
class ChosenMethod:
    """One way of erasing."""

    name: str
    sampling: Callable[[list[str]], dict]
    """Concepts -> the fields of Chosen, each only if it is not the world's own, empty, or nothing."""

    def chosen(self, world: World, concepts: list[str]) -> Chosen:
        return Chosen(**{"model": world.model, **self.sampling(concepts)})
