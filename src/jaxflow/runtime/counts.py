"""The check that every number of something shares."""

from typing import Any


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is no whole number, or a smaller one than `least`.

    Raises:
        ValueError: names the argument, its value and what is allowed.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")
