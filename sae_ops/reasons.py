"""What errors of other libraries say, in a line."""


def reason_of(error: Exception) -> str:
    """The first line of the error's message, with the next where it ends in a colon; its kind if it has no message."""
    first, *rest = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {rest[0].strip()}" if rest and first.endswith(":") else first
