"""What errors of other libraries say, in a line."""


def reason_of(error: Exception) -> str:
    """The first line of the error's message, or what kind it is if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
