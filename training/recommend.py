"""Which of several hookpoints to erase at, as far as a training on all of them tells."""

from math import isnan
from statistics import mean

from .finish import Made

MEASURES = {
    "explained": ("{:.2f}", "the share of what the names bring that its latents explain"),
    "separation": ("{:.1f}", "the standard deviations by which its latents tell the concepts apart"),
}
"""Facts of concepts, the better one first: that one is there with the guidance loss alone."""


def recommendation(made: list[Made]) -> str | None:
    """A line that names the hookpoint whose concepts do best on pictures held out.

    None if there is only one hookpoint, or nothing to judge by. A hookpoint with a fact that is NaN comes last.
    """
    points = list(dict.fromkeys(sae.header.hookpoint for sae in made))
    if len(points) < 2:
        return None
    known = [(sae.header.hookpoint, concept.facts) for sae in made for concept in sae.header.concepts]
    fact = next((fact for fact in MEASURES if all(fact in facts for _, facts in known)), None)
    if fact is None:
        return None
    number, meaning = MEASURES[fact]
    scores = {point: mean(facts[fact] for own, facts in known if own == point) for point in points}
    ranked = sorted(points, key=lambda point: (not isnan(scores[point]), scores[point]), reverse=True)
    listed = ", ".join(f"{point} {number.format(scores[point])}" for point in ranked)
    return f"Recommended hookpoint: {ranked[0]}, by {meaning}: {listed}. Locate Concept tells more."
