"""Packages of optional extras: what is not installed is one line that says how to install it."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import MissingExtraError

_PACKAGES = {"learn": ("sklearn", "matplotlib"), "report": ("matplotlib",)}  # extra -> the packages that it installs


@contextmanager
def translate_import_errors(feature: str, extra: str) -> Iterator[None]:
    """Raise the error of an import of a package that is not installed as one line that names the extra.

    Args:
        feature: The work that needs the package, in the plural: "figures".
        extra: Name of the extra of this package that installs it.

    Raises:
        MissingExtraError: A package that is imported within is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise MissingExtraError(
            f"{feature} need {package}, which is not installed: pip install 'modelzoo-datasets[{extra}]'"
        ) from error


def require_extra(feature: str, extra: str) -> None:
    """Check at the start of long work that an extra is installed, without importing its packages.

    Args:
        feature: The work that needs the extra, in the plural: "evaluations".
        extra: Name of an extra of this package.

    Raises:
        MissingExtraError: A package of the extra is not installed.
    """
    with translate_import_errors(feature, extra):
        for package in _PACKAGES[extra]:
            if importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(name=package)
