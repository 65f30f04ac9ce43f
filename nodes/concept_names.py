"""Lists of concepts, as they are typed into nodes."""

import re

from ..sae_ops.concepts import Concept

SEPARATOR, OTHER = "[,，、\n]", "[^,，、\n]"
"""Between names: commas, those of Chinese and Japanese among them, and ends of lines; and what is none of these."""


def split_names(text: str, concepts: tuple[Concept, ...]) -> list[str]:
    """The parts of the text between separators, as they are typed; empty ones are left out.

    Names of these concepts stay whole if they have separators themselves.
    """
    names = {name for concept in concepts for name in (concept.name, concept.label) if re.search(SEPARATOR, name)}
    longest_first = map(re.escape, sorted(names, key=len, reverse=True))
    whole = [rf"\s*{name}\s*(?:[:：]{OTHER}*)?(?={SEPARATOR}|$)" for name in longest_first]
    parts = re.findall("|".join([*whole, f"{OTHER}+"]), text, re.IGNORECASE)
    return [part for part in parts if part.strip()]
