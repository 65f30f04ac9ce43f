"""Several concepts erased by one setting: the best for all of them together, and that for the first alone."""

import pytest

from shapecanvas.concepts import OBJECTS
from tables.bench import QUICK, Bench
from tables.erasing import shared_setting
from tables.markdown import shared_setting_table
from tables.methods import Method

WEAK, STRONG = (-1,), (-30,)


class Measured(Bench):
    """What pictures would show: alone, concepts need the strong setting, which harms too much if all have it."""

    def __init__(self):
        super().__init__(world=None, place=None, records=None, size=QUICK)

    def methods(self, group, seed, most_settings=21):
        return [Method("tried", (WEAK, STRONG), None), Method("left out", (WEAK,), None)]

    def measured(self, method, seed, group, concepts, settings, test):
        strong = len(concepts) * (settings[0] == STRONG)
        assert settings == [settings[0]] * len(concepts)
        return {"UA": 90 if strong else 60, "IRA": 100 - 20 * strong, "CRA": 98 if test else 0, "broken": 0}


def test_the_setting_is_chosen_for_all_of_them():
    bench = Measured()
    method, _ = bench.methods("object", 0)
    first, second = OBJECTS[:2]
    assert [bench.chosen(method, 0, "object", [name]) for name in (first, second)] == [STRONG, STRONG]
    together, alone = shared_setting(bench, "object", ["tried"])
    for row, number, setting in ((together, 2, WEAK), (alone, 1, STRONG)):
        assert (row["chosen for"], row["chosen"], row["concepts"], row["settings tried"]) == (number, setting, 2, 2)
    assert (together["UA"], together["kept"]) == (60, pytest.approx(99))
    assert (alone["UA"], alone["kept"]) == (90, pytest.approx(79))
    assert shared_setting_table([together, alone]).splitlines()[2:] == [
        "| tried | 2 | 2 | 60.0 | 99.0 | 79.5 |",
        "| tried | 2 | 1 | 90.0 | 79.0 | 84.5 |",
    ]


def test_of_a_single_setting_nothing_is_chosen():
    (row,) = shared_setting(Measured(), "object", ["left out"])
    assert (row["chosen"], row["settings tried"]) == (WEAK, 1)
