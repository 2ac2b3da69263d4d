"""Checks of the keys and values of recipes and options."""

import re
from collections.abc import Mapping
from typing import Any

from ..errors import RecipeError, nearest_hint

_MAX_RANGE = 10_000_000


def parse_range(name: str, text: str) -> range:
    """Return the range of a text such as "3" or "1-100", with both ends included.

    Raises:
        RecipeError: The text is no such range; the message begins with `name`.
    """
    first, _, last = text.partition("-")
    if not re.fullmatch(r"\d{1,9}(-\d{1,9})?", text, re.ASCII) or int(last or first) < int(first):
        raise RecipeError(f"{name} must look like 1-100 or 7, got {text!r}")
    if int(last or first) - int(first) >= _MAX_RANGE:
        raise RecipeError(f"{name}: expected at most {_MAX_RANGE:,} numbers, got {text!r}")
    return range(int(first), int(last or first) + 1)


def check_keys(where: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raise RecipeError for an unknown key, with the most similar known one.

    Args:
        where: The table, as the beginning of the message.
        values: The table to check.
        known: All known keys.
    """
    for key in values:
        if key not in known:
            raise RecipeError(f"{where} has no key {key!r}; {nearest_hint(key, known)}")


def check_type(name: str, value: Any, kind: type) -> None:
    """Raise RecipeError for a value of another type.

    Args:
        name: The name of the value, as the beginning of the message.
        value: The value to check.
        kind: int, float (which accepts integers), str or bool.
    """
    accepted = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise RecipeError(f"{name} must be {kind.__name__}, got {value!r}")
