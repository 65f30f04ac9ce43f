"""Paths in workflows that lead to other computers."""


def refuse_other_computers(path: str) -> str:
    """The path without spaces around it. Raises ValueError, before anything looks there, if it names a computer.

    Windows would sign in at that computer, whoever has written the workflow.
    """
    path = path.strip()
    if path.replace("\\", "/").startswith(("//", "/??/")):  # /??/: of any device, as the kernel of Windows writes it
        raise ValueError(
            f"'{path}' names another computer, at which Windows would sign in. Copy the files to this one, or give "
            "that folder a drive letter."
        )
    return path
