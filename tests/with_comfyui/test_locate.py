"""Locate Concept: where a concept is decided."""

import json

import comfy.model_management
import folder_paths
import pytest
import torch
from PIL import Image

from sae_eraser.nodes.locate.locate_concept import LocateConcept
from sae_eraser.nodes.locate.locate_inputs import Range, choose_hookpoints, read_pairs, read_ranges
from sae_eraser.nodes.locate.locate_report import picture, table
from sae_eraser.nodes.locate.locate_results import Exchanged, LocateResults
from sae_eraser.nodes.locate.locating import locate as locate_with
from sae_eraser.nodes.locate.locating import most_exchanges
from sae_eraser.sae_ops.hookpoints import list_hookpoints
from sae_eraser.sae_ops.moved import Moved
from shapecanvas.locate import moved_by_block
from with_comfyui.collecting import MID, SAMPLING, UP, interrupting
from with_comfyui.sampling import with_probe

PAIRS = "a star in neon style | a house in neon style\n\n a ring in plain style | a tree in plain style \n"
INPUTS = {"pairs": PAIRS, "hookpoints": f"{UP}, {MID}", "ranges": "0-1, 0.5-1", "name": "here", "seeds": 1}
INPUTS |= {"first_seed": 3, "batch_size": 4, "combine": 2, "hooked": "output"}

CALLS = 2 + 2 * 5
"""Of the model, to sample two steps and to judge at five levels under two prompts."""


@pytest.fixture
def locate(world, tmp_path, monkeypatch):
    """locate(...) -> picture, table and measurements."""
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))

    def run(model=world.model, **changed):
        node = LocateConcept.execute(model=model, clip=world.clip, **(INPUTS | SAMPLING | changed))
        image, text, results = node.result
        assert node.ui["text"] == (text,)
        return image, text, json.loads(results)

    return run


def counted(world, calls: list):
    return with_probe(world.model, lambda x, options: calls.append(1))


def test_the_node_measures_every_block_in_every_range_and_all_together(locate, tmp_path):
    image, text, results = locate()
    measured = {(*row["hookpoints"], row["when"]["start"]): row for row in results["measured"]}
    assert list(measured) == [(MID, 0.0), (MID, 0.5), (UP, 0.0), (UP, 0.5), (MID, UP, 0.0)]
    assert all(len(row["moved"]["lead"]) == len(row["moved"]["worse"]) == 4 for row in measured.values())
    assert measured[MID, 0.0]["moved"] != measured[MID, 0.5]["moved"]
    assert measured[MID, 0.0]["sigmas"][0] > measured[MID, 0.5]["sigmas"][0] == measured[MID, 0.0]["sigmas"][1]
    # All that the middle block does passes through the one behind it.
    assert measured[MID, UP, 0.0]["moved"] == measured[UP, 0.0]["moved"] != measured[MID, 0.0]["moved"]
    assert results["settings"]["pairs"][1] == ["a ring in plain style", "a tree in plain style"]
    share = f"{100 * measured[MID, 0.5]['share']:.0f} / {100 * measured[MID, 0.5]['broken']:.0f}"
    assert next(line for line in text.splitlines() if line.startswith(f"| {MID} |")).endswith(f"| {share} |")
    folder = tmp_path / "sae_locate"
    assert (folder / "here.md").read_text() == text
    assert json.loads((folder / "here.json").read_text()) == results
    assert (1, *Image.open(folder / "here.png").size[::-1], 3) == tuple(image.shape)
    assert image.min() >= 0 and image.max() == 1 and image.std() > 0.01


def test_a_stopped_run_goes_on_and_a_finished_one_only_draws_the_originals(locate, world, tmp_path):
    whole = locate(name="whole")
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        locate(model=interrupting(world, at=3 * CALLS + 2))
    assert len(json.loads((tmp_path / "sae_locate" / "here.json").read_text())["measured"]) == 2
    calls: list[int] = []
    resumed = locate(model=counted(world, calls))
    assert (resumed[1], resumed[2]) == (whole[1], whole[2])
    assert len(calls) == CALLS * (1 + 3)
    calls.clear()
    assert locate(model=counted(world, calls))[1] == whole[1]
    assert len(calls) == CALLS
    calls.clear()
    locate(model=counted(world, calls), ranges="0-1, 0.5-1, 0-0.4")  # more of the same is added
    assert len(calls) == CALLS * (1 + 2)


def test_comfyui_runs_the_node_again_when_the_results_are_gone(locate, tmp_path):
    asked = {"name": "gone"}
    assert LocateConcept.fingerprint_inputs(**asked) == LocateConcept.fingerprint_inputs(**asked)
    locate(name="gone", ranges="0-1", combine=1, hookpoints=MID)
    assert LocateConcept.fingerprint_inputs(**asked) == LocateConcept.fingerprint_inputs(**asked)
    (tmp_path / "sae_locate" / "gone.json").unlink()
    gone = LocateConcept.fingerprint_inputs(**asked)
    assert (gone,) != (LocateConcept.fingerprint_inputs(**asked),)  # as ComfyUI's keys hold them


@pytest.mark.parametrize("ending", ["md", "png"])
def test_comfyui_has_the_table_and_the_picture_made_again_when_they_are_gone(locate, tmp_path, ending):
    few = {"name": f"again.{ending}", "ranges": "0-1", "combine": 1, "hookpoints": MID}
    first = LocateConcept.fingerprint_inputs(name=few["name"])
    locate(**few)
    assert LocateConcept.fingerprint_inputs(name=few["name"]) == first
    file = tmp_path / "sae_locate" / f"{few['name']}.{ending}"
    file.unlink()
    before = LocateConcept.fingerprint_inputs(name=few["name"])
    locate(**few)
    assert file.is_file() and first != before == LocateConcept.fingerprint_inputs(name=few["name"])


def test_noises_and_what_is_exchanged_are_those_that_were_asked_for(locate):
    few = {"hookpoints": MID, "ranges": "0-1", "combine": 1}
    third, fourth, both = (
        locate(name=f"{first}{seeds}", first_seed=first, seeds=seeds, **few)[2]
        for first, seeds in ((3, 1), (4, 1), (3, 2))
    )
    assert both["originals"] == pytest.approx(
        [std for half in (slice(2), slice(2, 4)) for one in (third, fourth) for std in one["originals"][half]], abs=1e-3
    )
    assert third["originals"] != pytest.approx(fourth["originals"], abs=1e-3)
    residual = locate(name="residual", hooked="residual", **few)[2]
    assert residual["originals"] == third["originals"]
    assert residual["measured"][0]["moved"] != third["measured"][0]["moved"]


def test_results_of_other_settings_or_models_are_not_mixed(locate, world):
    locate()
    with pytest.raises(ValueError, match=r"here.json was measured with other settings \(seeds, cfg\). Choose another"):
        locate(seeds=2, cfg=2.0)
    other = world.model.clone()
    other.add_patches({"diffusion_model.out.2.weight": (torch.ones(16, 64, 3, 3),)}, 0.02)
    with pytest.raises(ValueError, match="here.json was measured with another model: it draws other pictures"):
        locate(model=other)


@pytest.mark.parametrize("content", ["", "[]", '{"settings": {}}', '{"settings": {}, "measured": [{}]}'])
def test_a_damaged_file_is_named(locate, tmp_path, content):
    (tmp_path / "sae_locate").mkdir()
    (tmp_path / "sae_locate" / "here.json").write_text(content)
    with pytest.raises(ValueError, match="here.json cannot be read .* delete that file"):
        locate()


@pytest.mark.parametrize(
    "edited, message",
    [
        ({"originals": []}, "cannot be read"),
        ({"originals": [1.0]}, "cannot be read"),
        ({"originals": [1.0, None, 1.0, 1.0]}, "cannot be read"),
        ({"lead": [0.1]}, "cannot be read"),
        ({"lead": []}, "cannot be read"),
        ({"worse": [1.0, 1.0, float("nan"), 1.0]}, "cannot be read .*must have a number for each picture"),
        ({"worse": ["1", "1", "1", "1"]}, "cannot be read"),
        ({"sigmas": [9.0]}, "cannot be read"),
        ({"sigmas": ["high", "low"]}, "cannot be read"),
        ({"originals": [1.0] * 2, "lead": [0.1] * 2, "worse": [1.0] * 2}, "numbers for 2 pictures, not 4"),
        ({"originals": [], "lead": [], "worse": []}, "cannot be read .*must have a number for each picture"),
    ],
)
def test_results_that_lack_numbers_of_some_pictures_are_refused(tmp_path, edited, message):
    """A list of one number would be compared with, and counted for, all of them."""
    row = {"hookpoints": [MID], "when": {"start": 0, "end": 1}, "sigmas": [9.0, 1.0]}
    row |= {"moved": {"lead": [0.1] * 4, "worse": [1.0] * 4}}
    content = {"settings": {}, "originals": [1.0] * 4, "measured": [row]}
    for name, value in edited.items():
        next(part for part in (content, row, row["moved"]) if name in part)[name] = value
    (tmp_path / "here.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"here.json .*{message}.*delete that file"):
        LocateResults(tmp_path / "here.json", {}).start(torch.tensor([[-0.5, 0.5, 1.5]] * 4))


def test_latents_that_comfyui_keeps_in_fp16_are_measured_the_same(locate, monkeypatch):
    few = {"hookpoints": MID, "ranges": "0-1", "combine": 1}
    whole = locate(name="whole", **few)[2]
    monkeypatch.setattr(comfy.model_management.args, "fp16_intermediates", True)
    half = locate(name="half", **few)[2]
    assert half["originals"] == pytest.approx(whole["originals"], abs=1e-3)
    for numbers in ("lead", "worse"):
        assert half["measured"][0]["moved"][numbers] == pytest.approx(whole["measured"][0]["moved"][numbers], abs=0.02)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"pairs": " \n"}, "There are no pairs. Write one a line: a star"),
        ({"pairs": "a | b\na star in neon style"}, "Line 2 of the pairs is not two different prompts .*a star"),
        ({"pairs": "a | b | c"}, "Line 1 of the pairs"),
        ({"pairs": "a | a"}, "Line 1 of the pairs"),
        ({"pairs": "a star | A STAR"}, "draws the same picture for 'a star' and 'A STAR'"),
        ({"cfg": 0.0}, "cfg must be above 0, but is 0"),
        ({"ranges": "0-1, half"}, "'half' is no range of the sampling. Write .* such as 0-0.5"),
        ({"ranges": "0.5-0.5"}, "'0.5-0.5' is no range"),
        ({"ranges": "0-2"}, "'0-2' is no range"),
        ({"ranges": "0.1-0.2"}, "No step of the sampler lies in 10-20 % of the sampling"),
        (
            {"hookpoints": "mid_block, attention.9"},
            "No hookpoint of this model has 'attention.9' .* It has: down_blocks",
        ),
        ({"hookpoints": " , "}, "No hookpoint is named"),
        ({"name": "../here"}, "'../here' is no usable name for results"),
        ({"name": " "}, "' ' is no usable name for results"),
    ],
)
def test_what_cannot_be_measured_is_said(locate, changed, message):
    with pytest.raises(ValueError, match=message):
        locate(**changed)


@pytest.mark.parametrize(
    "content, changed, message",
    [
        ("{}", {}, "cannot be read"),
        (None, {"cfg": 2.0}, r"measured with other settings \(cfg\)"),
        (None, {"ranges": "0-1, 0.1-0.2"}, "No step of the sampler lies in 10-20 %"),
    ],
)
def test_what_cannot_be_measured_is_said_before_any_picture_is_sampled(
    locate, world, tmp_path, content, changed, message
):
    locate(hookpoints=MID, ranges="0-1", combine=1)
    if content:
        (tmp_path / "sae_locate" / "here.json").write_text(content)
    calls: list[int] = []
    with pytest.raises(ValueError, match=message):
        locate(model=counted(world, calls), **changed)
    assert not calls


@pytest.mark.parametrize("sampler_name", ["euler", "heun", "uni_pc", "dpm_2"])
def test_the_narrowest_range_with_a_step_is_measured(locate, sampler_name):
    (row,) = locate(hookpoints=MID, ranges="0-0.001", combine=1, sampler_name=sampler_name)[2]["measured"]
    assert row["sigmas"][0] == row["sigmas"][1] > 10


def test_a_model_that_draws_nan_is_not_measured(locate, world):
    broken = world.model.clone()
    broken.add_patches({"diffusion_model.out.2.bias": (torch.full((16,), torch.nan),)})
    with pytest.raises(ValueError, match="draws NaN or infinity"):
        locate(model=broken)


def test_hookpoints_are_chosen_by_name_path_or_part(world):
    known = list_hookpoints(world.model.model.diffusion_model)
    names = [point.name for point in choose_hookpoints("up_blocks.0.attentions, mid_block.attentions.0", known)]
    assert names == [MID, UP, "up_blocks.0.attentions.1"]
    assert choose_hookpoints("middle_block.1", known) == choose_hookpoints(MID, known)
    assert choose_hookpoints("block", known) == known


def test_pairs_and_ranges_are_read():
    assert read_pairs(PAIRS)[1] == ("a ring in plain style", "a tree in plain style")
    assert read_ranges(" 0-1,0.25 - 0.5, 0-1") == [Range(0, 1), Range(0.25, 0.5)]
    assert str(Range(0.25, 0.5)) == "25-50 %"


def made_up(shares: dict[str, float], asked: list | None = None):
    """A measure of blocks that move the concept independently; "late" blocks do so in the second half alone."""

    def measure(names, when):
        if asked is not None:
            asked.append((names, when))
        kept = 1.0
        for name in names:
            kept *= 1 - shares[name] * (when.end - when.start)
        moved = round(100 * (1 - kept))
        return Exchanged(names, when, (9.0, 1.0), Moved([1.0] * moved + [-1.0] * (100 - moved), [1.0] * 95 + [1.6] * 5))

    return measure


SHARES = {"a": 0.1, "b": 0.7, "c": 0.0, "d": 0.8, "e": 0.2, "f": 0.6, "g": 0.05, "h": 0.01}


@pytest.mark.parametrize(
    "largest, best",
    [(1, ["d"]), (2, ["d", "bd"]), (3, ["d", "bd", "bdf"]), (6, ["d", "bd", "bdf"])],
)
def test_the_best_blocks_are_added_up_until_the_concept_cannot_slip_past(largest, best):
    asked: list = []
    located = locate_with(made_up(SHARES, asked), list(SHARES), [Range(0, 1), Range(0, 0.5)], largest)
    assert ["".join(one.hookpoints) for one in located.best] == best
    assert [row[1].moved.share for row in located.alone][:4] == [0.05, 0.35, 0.0, 0.4]
    assert located.together.hookpoints == tuple(SHARES)
    combinations = [names for names, _ in asked if 1 < len(names) < len(SHARES)]
    assert not any(set(names) & {"c", "h"} for names in combinations)  # the two that move it least
    assert len(asked) <= most_exchanges(len(SHARES), 2, largest)
    if largest < 6:
        assert len(asked) == most_exchanges(len(SHARES), 2, largest)


def test_few_blocks_are_added_up_to_all_of_them():
    located = locate_with(made_up({"a": 0.1, "b": 0.2}), ["a", "b"], [Range(0, 1)], 3)
    assert ["".join(one.hookpoints) for one in located.best] == ["b", "ab"]
    located = locate_with(made_up({"a": 0.1}), ["a"], [Range(0, 1)], 3)
    assert [one.hookpoints for one in located.best] == [("a",)]
    assert most_exchanges(1, 1, 3) == 2


def test_the_table_says_past_what_the_concept_cannot_slip():
    ranges = [Range(0, 1), Range(0, 0.5)]
    text = table(locate_with(made_up(SHARES), list(SHARES), ranges, 3), 100, 0.98)
    assert "| exchanged | 0-100 %, sigma 9 to 1 | 0-50 %, sigma 9 to 1 |" in text
    assert "| b | 70 / 5 | 35 / 5 |" in text
    assert "| b + d | 94 / 5 |" in text and "| all 8 | 98 / 5 |" in text
    assert text.endswith("The concept cannot slip past these 3 blocks together: b + d + f (98 %).")
    text = table(locate_with(made_up(SHARES), list(SHARES), ranges, 1), 100, 0.9)
    assert "can slip past the best that was tried, d (80 %); all blocks together move it in 98 %" in text
    text = table(locate_with(made_up({"a": 0.97}), ["a"], ranges, 3), 100, 0.89)
    assert "The concept cannot slip past one block: a (97 %)." in text
    assert text.endswith("The model can hardly tell the originals apart: do not rely on this. Choose clearer pairs.")


def broken_by(moved: dict[str, tuple[int, int]]):
    """A measure in which a block moves so many of a hundred pictures and breaks so many, of those moved first.

    Blocks together move and break as many as the one that moves most.
    """

    def measure(names, when):
        share, broken = max(moved[name] for name in names)
        lead, worse = [1.0] * share + [-1.0] * (100 - share), [1.6] * broken + [1.0] * (100 - broken)
        return Exchanged(names, when, (9.0, 1.0), Moved(lead, worse))

    return measure


@pytest.mark.parametrize(
    "moved, chosen",
    [
        ({"a": (100, 100), "b": (97, 2)}, "b"),  # what breaks every picture is not the best
        ({"a": (40, 0), "b": (97, 0), "c": (97, 0)}, "b"),  # of those that are alike the earlier
        ({"a": (80, 0), "b": (90, 40)}, "a"),
    ],
)
def test_pictures_that_are_broken_do_not_count_as_moved(moved, chosen):
    located = locate_with(broken_by(moved), list(moved), [Range(0, 1)], 2)
    assert located.chosen.hookpoints == (chosen,)
    assert f": {chosen} (" in table(located, 100, 1.0) or f"was tried, {chosen} (" in table(located, 100, 1.0)


@pytest.mark.parametrize("share, broken", [(100, 100), (100, 20), (60, 51)])
def test_the_table_says_where_broken_pictures_leave_it_open(share, broken):
    text = table(locate_with(broken_by({"a": (share, broken)}), ["a"], [Range(0, 1)], 3), 100, 1.0)
    assert f"the best that was tried, a: it moves along in {share} %, but {broken} % of the pictures are broken" in text
    assert "Choose other hookpoints, or exchange less" in text and "cannot slip past" not in text


def test_the_picture_is_as_blue_as_the_concept_moves():
    drawn = picture(locate_with(made_up({"a": 0.0, "b": 1.0}), ["a", "b"], [Range(0, 1)], 1))
    pixels = torch.frombuffer(bytearray(drawn.tobytes()), dtype=torch.uint8).reshape(-1, 3)
    for colour in ((247, 251, 255), (8, 69, 148), (230, 100, 20)):
        assert (pixels == torch.tensor(colour, dtype=torch.uint8)).all(dim=1).sum() > 50, colour


def test_without_a_classifier_it_says_what_the_classifier_says(world):
    """Which blocks move the object, of those on the way down, in the middle and on the way up."""
    blocks = [[MID], ["down_blocks.1.attentions.0"], ["down_blocks.1.resnets.0"], ["up_blocks.1.resnets.1"]]
    rows = moved_by_block(world, blocks, "object", 16, steps=8)
    follows, stays, measured = map(torch.tensor, zip(*rows, strict=True))
    assert (follows - measured).abs().max() <= 0.2
    assert follows.argsort().tolist()[:2] == measured.argsort().tolist()[:2]
    assert follows[3] > follows[2] + 0.2 and stays.min() > 0.9
