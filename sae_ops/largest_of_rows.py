"""The largest of every row, found by the maxima of groups of its columns."""

import torch

COLUMNS_PER_GROUP = 8


def group_maxima(rows: torch.Tensor) -> torch.Tensor:
    """[rows, n] -> [rows, n / 8], the members of a group n / 8 apart; the rows themselves if 8 does not divide n."""
    if rows.shape[1] % COLUMNS_PER_GROUP:
        return rows
    return rows.unflatten(1, (COLUMNS_PER_GROUP, -1)).amax(dim=1)


def largest_of_rows(rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest of every row, in no order: values and columns [rows, count].

    They lie in the `count` groups with the largest maxima.
    """
    groups, rest = divmod(rows.shape[1], COLUMNS_PER_GROUP)
    if rest or groups < 2 * count:
        values, columns = rows.topk(count, dim=1, sorted=False)
        return values, columns
    _, best = largest_of_rows(group_maxima(rows), count)
    members = (best[:, None] + groups * torch.arange(COLUMNS_PER_GROUP, device=rows.device)[:, None]).flatten(1)
    values, places = rows.gather(1, members).topk(count, dim=1, sorted=False)
    return values, members.gather(1, places)


def kth_largest(rows: torch.Tensor, k: int) -> torch.Tensor:
    """The k-th largest number of every row, [rows]."""
    return rows.topk(k, dim=1, sorted=False).values.amin(dim=1)
