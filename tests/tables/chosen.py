"""A method whose settings are chosen, as the tables of attacks and of generality see it."""

from collections.abc import Callable
from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher

from shapecanvas.world import World


@dataclass(frozen=True)
class ChosenMethod:
    """One way of erasing."""

    name: str
    sampling: Callable[[list[str]], dict]
    """Concepts -> what sampling is to be given: "model", the patched one, and "negative_prompt"; each only if it is not
    the world's own and empty."""

    def model(self, world: World, concepts: list[str]) -> ModelPatcher:
        return self.sampling(concepts).get("model", world.model)

    def negative_prompt(self, concepts: list[str]) -> str:
        return self.sampling(concepts).get("negative_prompt", "")
