"""The text field of Erase Concepts."""

import pytest

from sae_eraser.nodes.erase.erase_concepts import read_concepts


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
    ],
)
def test_names_and_strengths_are_read(text, expected):
    assert [(name.strip(), strength) for name, strength in read_concepts(text)] == expected


@pytest.mark.parametrize("text", ["star: -1", "star: inf", "star: nan"])
def test_a_strength_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="strength of 'star'.*0 or more"):
        read_concepts(text)


@pytest.mark.parametrize("text", ["", "  \n, ,", ": 0.5"])
def test_a_text_without_a_name_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="star: 1.0, neon: 0.5"):
        read_concepts(text)
