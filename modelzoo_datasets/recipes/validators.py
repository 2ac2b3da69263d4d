"""Refuse what a recipe or an option must not say, in one line that names it."""

import re
from collections.abc import Mapping
from typing import Any

from ..errors import RecipeError, nearest_hint

_LARGEST_RANGE = 10_000_000


def parse_range(what: str, text: str) -> range:
    """'3' or '1-100' (both ends included) as a range."""
    first, _, last = text.partition("-")
    if not re.fullmatch(r"\d{1,9}(-\d{1,9})?", text, re.ASCII) or int(last or first) < int(first):
        raise RecipeError(f"{what} must look like 1-100 or 7, got {text!r}")
    if int(last or first) - int(first) >= _LARGEST_RANGE:
        raise RecipeError(f"{what}: at most {_LARGEST_RANGE:,} at once, got {text!r}")
    return range(int(first), int(last or first) + 1)


def check_keys(where: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse a key that is not known, offering the nearest one."""
    for key in values:
        if key not in known:
            raise RecipeError(f"{where} has no key {key!r}; {nearest_hint(key, known)}")


def check_type(name: str, value: Any, kind: type) -> None:
    """Refuse a value that is not of the kind int, float (integers welcome), str or bool."""
    accepted = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise RecipeError(f"{name} must be {kind.__name__}, got {value!r}")
