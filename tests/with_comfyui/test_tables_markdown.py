"""Tables say the mean over seeds, and how far the seeds are apart."""

from tables import black_box, generality, one_to_one, white_box


def attacked(before: float, after: float) -> dict:
    return {"before": before, "after": after, "looks": [after + 5, after + 2]}


def test_the_fall_is_taken_seed_by_seed():
    found = [
        {"ours": {"star": attacked(90, 80), "ring": attacked(100, 80)}},
        {"ours": {"star": attacked(90, 60), "ring": attacked(90, 60)}},
    ]
    row = "| ours | 92.5 ± 2.5 | 70.0 ± 10.0 | 22.5 ± 7.5 | 28.0 ± 10.0 |"
    assert white_box.markdown(found).splitlines()[2:] == [row]


def test_one_seed_has_no_spread():
    assert white_box.markdown([{"ours": {"star": attacked(90, 80)}}]).endswith("| ours | 90.0 | 80.0 | 10.0 | 18.0 |")


def test_black_box_has_a_row_for_each_attack():
    found = [{"none": {"synonym": {"star": 0.0}}, "ours": {"synonym": {"star": ua}}} for ua in (90.0, 96.0)]
    assert black_box.markdown(found).splitlines()[2:] == ["| synonym | 0.0 ± 0.0 | 93.0 ± 3.0 |"]


def test_generality_leaves_out_what_says_nothing():
    found = [{"a LoRA, its style": {"ours": {"star": {"UA": 90.0, "IRA": 70.0}}}}]
    assert generality.markdown(found).splitlines()[2:] == ["| a LoRA, its style | 90.0 / 70.0 / - |"]


def test_saes_of_one_kind_are_one_row():
    found = [{f"supervised_object_{seed}": {"star": {"own": own}}} for seed, own in enumerate((0.4, 0.6))]
    assert one_to_one.markdown(found).splitlines()[2:] == ["| supervised_object | 50.0 ± 10.0 |"]
