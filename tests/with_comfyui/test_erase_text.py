"""The text fields in which concepts are listed."""

import pytest

from sae_eraser.nodes.concept_names import split_names
from sae_eraser.nodes.erase.erase_concepts import read_concepts
from sae_eraser.sae_ops.concepts import Concept, find_concept


@pytest.mark.parametrize(
    "text, expected",
    [
        ("star", [("star", 1.0)]),
        ("star: 0.5", [("star", 0.5)]),
        ("star:.5,neon:2", [("star", 0.5), ("neon", 2.0)]),
        (" star : 1 \n\n neon ", [("star", 1.0), ("neon", 1.0)]),
        ("star, neon,", [("star", 1.0), ("neon", 1.0)]),
        ("object: star", [("object: star", 1.0)]),
        ("object: star: 0.5", [("object: star", 0.5)]),
        ("Art Nouveau: 0", [("Art Nouveau", 0.0)]),
        ("3d: 0.5", [("3d", 0.5)]),
        ("star：1.5，heart、object：neon： 0.5", [("star", 1.5), ("heart", 1.0), ("object:neon", 0.5)]),
    ],
)
def test_names_and_strengths_are_read(text, expected):
    assert [(name.strip(), strength) for name, strength in read_concepts(text, ())] == expected


@pytest.mark.parametrize("text", ["star: -1", "star: inf", "star: nan"])
def test_a_strength_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="strength of 'star'.*0 or more"):
        read_concepts(text, ())


@pytest.mark.parametrize("text", ["", "  \n, ,", ": 0.5"])
def test_a_text_without_a_name_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="star: 1.0, neon: 0.5"):
        read_concepts(text, ())


def concept(group: str, name: str) -> Concept:
    return Concept(name, group, (0,), -1.0, 1.0)


ODD = (
    *(concept("shape", name) for name in ("red", "round", "red, round", "Very red, round", "星、月", "昼：夜")),
    *(concept("digit", name) for name in ("3", "1984", "Infinity", "nan", "1e3")),
    *(concept("film", name) for name in ("3", "10, Rue Blanche: 2")),
)


@pytest.mark.parametrize("name", [one.label for one in ODD] + [one.name for one in ODD if one.name != "3"])
def test_every_name_of_a_concept_names_it_alone_and_among_others(name):
    expected = find_concept(ODD, name)
    for text, strength in (
        (name, 1.0),
        (f"{name}: 0.5", 0.5),
        (f"1984, {name} :0.5\nnan", 0.5),
        (f"1984,{name}", 1.0),
    ):
        found = [(find_concept(ODD, part), number) for part, number in read_concepts(text, ODD)]
        assert (expected, strength) in found, text
        assert {index for index, _ in found} <= {expected, 7, 9}, text
    names = [find_concept(ODD, part) for part in split_names(f"1984, {name.upper()} ,nan", ODD)]
    assert names == [7, expected, 9]
