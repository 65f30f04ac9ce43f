"""Lists of concepts, as they are typed into nodes."""

import re

from ..sae_ops.concepts import Concept

COMMA = "\0"
"""Stands for a comma within a name while a text is split at the others."""


def split_names(text: str, concepts: tuple[Concept, ...]) -> list[str]:
    """The parts of the text between commas and new lines, as they are typed; empty ones are left out.

    Names of these concepts stay whole if they have commas themselves.
    """
    names = {name for concept in concepts for name in (concept.name, concept.label) if "," in name}
    if names:
        longest_first = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
        whole = rf"(?<![^,\n])\s*(?:{longest_first})(?=\s*(?:[:,\n]|$))"
        text = re.sub(whole, lambda found: found[0].replace(",", COMMA), text, flags=re.IGNORECASE)
    parts = text.replace("\n", ",").split(",")
    return [part.replace(COMMA, ",") for part in parts if part.strip()]
