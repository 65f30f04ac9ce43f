"""The small world keeps what it promises: the judge judges right, and the model draws what it is asked for."""

import ast
import os
import subprocess
import sys

import torch

from checkout import ROOT
from shapecanvas.classifier import classify
from shapecanvas.concepts import OBJECTS, STYLES
from shapecanvas.drawing import draw
from shapecanvas.world import World, judge

UNSEEN_SEED = 20_000_000


def test_the_classifier_knows_drawings_it_has_not_seen(world: World):
    pairs = [(o, s) for o in range(len(OBJECTS)) for s in range(len(STYLES)) for _ in range(5)]
    drawings = [draw(OBJECTS[o], STYLES[s], UNSEEN_SEED + i) for i, (o, s) in enumerate(pairs)]
    objects, styles = classify(world.classifier, torch.stack([torch.from_numpy(d) for d in drawings]) / 255)
    asked = torch.tensor(pairs)
    assert (objects == asked[:, 0]).float().mean() >= 0.99
    assert (styles == asked[:, 1]).float().mean() >= 0.99


def test_sampled_pictures_show_the_object_and_the_style_asked_for(world: World):
    verdicts = judge(world, seeds_per_pair=10)
    assert len(verdicts.asked_objects) == 960
    assert verdicts.accuracy("object") >= 0.95
    assert verdicts.accuracy("style") >= 0.95


def test_so_do_those_of_the_second_world():
    command = [sys.executable, "-m", "shapecanvas", "evaluate", "--seeds", "1"]
    environment = os.environ | {"SHAPECANVAS": "alike", "PYTHONPATH": str(ROOT / "tests")}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-2000:]
    shares = ast.literal_eval(run.stdout.splitlines()[-1])
    assert shares["object"] >= 95 and shares["style"] >= 95
