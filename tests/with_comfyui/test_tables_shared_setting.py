"""Several concepts erased by one setting: it is the best for all of them together, not for each alone."""

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
    (row,) = shared_setting(bench, "object", ["tried"])
    assert (row["chosen"], row["concepts"], row["settings tried"]) == (WEAK, 2, 2)
    assert (row["UA"], row["kept"]) == (60, pytest.approx(99))
    assert shared_setting_table([row]).splitlines()[2:] == ["| tried | 2 | 60.0 | 99.0 | 79.5 |"]
