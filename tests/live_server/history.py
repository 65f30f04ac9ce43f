"""What ComfyUI's history has of a run."""


def messages(entry: dict, kind: str) -> list[dict]:
    """What the server has said of this kind in the run of this entry, such as "execution_cached"."""
    return [values for name, values in entry["status"]["messages"] if name == kind]
