"""Lists of concepts, as they are typed into nodes."""


def split_names(text: str) -> list[str]:
    """The parts of the text between commas and new lines, as they are typed; empty ones are left out."""
    return [part for part in text.replace("\n", ",").split(",") if part.strip()]
