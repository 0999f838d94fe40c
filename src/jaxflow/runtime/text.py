"""Words for messages."""

# Most rows or columns that an error message lists.
MAX_LISTED = 10


def plural(count: int, noun: str) -> str:
    """`1 row`, `2 rows`, `20,000 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(items: list[str]) -> str:
    """The first `MAX_LISTED` items and the number of the others, in words."""
    more = len(items) - MAX_LISTED
    return ", ".join(items[:MAX_LISTED]) + (f", ... ({more} more)" if more > 0 else "")
