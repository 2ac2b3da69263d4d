"""The formats of published zoos, by name. This module imports nothing heavy, so that a command can check a name."""

from pathlib import Path

from ..errors import FormatError, RecipeError, unknown

FORMATS = ("model-zoos", "small-cnn-zoo", "weightclip", "safetensors")


def check_source(source: Path, format: str) -> None:
    """Check that a format is known and that there is something to import.

    Args:
        source: Folder, zip or tar archive of the originals.
        format: Name of their format.

    Raises:
        RecipeError: The format is unknown.
        FormatError: There is no such folder or archive.
    """
    if format not in FORMATS:
        raise RecipeError(unknown("format", format, FORMATS))
    if not source.exists():
        raise FormatError(f"there is no folder or archive {source}")
