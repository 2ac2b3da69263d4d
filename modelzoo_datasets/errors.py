"""What can go wrong on a user's side: every message says what was expected, what came, and what to do."""

import difflib
from collections.abc import Iterable

_MOST_NAMED = 40


class ModelZooError(ValueError):
    """An expected failure; commands print its message as one line and exit with status 2."""


class RecipeError(ModelZooError):
    """A recipe is unknown, unreadable, or says something that cannot be trained."""


class FormatError(ModelZooError):
    """A file or folder is not what this release writes: missing, truncated, altered or of another version."""


class FolderInUseError(ModelZooError):
    """The output folder already holds something else, which is never overwritten."""


class DiskFullError(ModelZooError):
    """A disk has no room left; with more room the same command goes on."""


class MissingImagesError(ModelZooError):
    """An image dataset is neither on disk nor to be downloaded."""


class HubError(ModelZooError):
    """The Hub does not do what was asked for: the message says why, and what to do."""


class HubAccessError(HubError):
    """No token, one that the Hub does not know, or one that may not do this."""


class HubUnavailableError(HubError):
    """The Hub cannot be reached, or takes no requests for now; later the same command goes on."""


class DeviceError(ModelZooError):
    """A device or engine was asked for that this machine does not have."""


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """The message for a name that nobody knows: with the nearest known one, or else those there are."""
    return f"unknown {what} {word!r}; {nearest_hint(word, known)}"


def nearest_hint(word: str, known: Iterable[str]) -> str:
    """'did you mean ...?' where something is near enough, else what is known, of very many the first ones."""
    choices = list(known)
    close = difflib.get_close_matches(word, choices, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    more = f" and {len(choices) - _MOST_NAMED:,} more" if len(choices) > _MOST_NAMED else ""
    return f"known: {', '.join(choices[:_MOST_NAMED])}{more}"
