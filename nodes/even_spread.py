"""Some of a run's calls of the model, spread evenly."""


def spread(calls: int, keep: int) -> list[int]:
    """Indices of `keep` of the calls, spread evenly, the first and the last included; of all if keep is 0.

    One alone is the middle one.
    """
    if keep == 0 or keep >= calls:
        return list(range(calls))
    return [calls // 2] if keep == 1 else [place * (calls - 1) // (keep - 1) for place in range(keep)]
