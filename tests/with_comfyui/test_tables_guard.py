"""Concept Guard in the tables: it withholds what the node withholds, and what that counts as."""

import torch

from sae_eraser.nodes.files.sae_files import open_sae
from sae_eraser.nodes.look.concept_guard import ConceptGuard
from sae_eraser.nodes.look.concept_score import THRESHOLD
from shapecanvas.concepts import OBJECTS, STYLES
from shapecanvas.world import World, decode, sample_latents
from tables.guard import guarded
from tables.pictures import NOTHING, Wanted, draw, scores
from with_comfyui.watching import DRAWN_SAE, watched

PICTURES = Wanted(
    tuple((OBJECTS.index(name), STYLES.index("plain")) for name in ("star", "house", "tree")), (61, 62, 63)
)


def test_it_withholds_what_the_node_makes_black(world: World):
    model, guard = guarded(world.model, open_sae(DRAWN_SAE), ["star"])
    latents = sample_latents(world, PICTURES.prompts(), list(PICTURES.seeds), model)
    assert guard(latents).tolist() == [True, False, False]
    model, watch = watched(world.model, DRAWN_SAE)
    latents = sample_latents(world, PICTURES.prompts(), list(PICTURES.seeds), model)
    shown, _ = ConceptGuard.execute(
        decode(world, latents), watch, {"samples": latents}, "star", THRESHOLD, "black"
    ).result
    assert [not picture.any() for picture in shown] == [True, False, False]


def test_what_is_withheld_is_erased_and_broken_and_counts_against_what_is_to_be_kept(world: World):
    free = draw(world, PICTURES, cfg=3.0)
    kept = draw(world, PICTURES, guard=lambda latents: torch.tensor([True, True, False]), cfg=3.0)
    assert torch.equal(free.seen, free.asked)
    assert (kept.seen[:2] == NOTHING).all() and torch.equal(kept.seen[2], kept.asked[2])
    assert scores(free, ["star"]) == {"UA": 0, "IRA": 100, "CRA": 100, "broken": 0}
    found = scores(kept, ["star"])
    assert (found["UA"], found["IRA"], found["broken"]) == (100, 50, 100)
