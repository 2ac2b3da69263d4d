"""The registry of architectures: each has a name, an input shape, a builder and a symmetry."""

from collections.abc import Callable
from importlib import import_module

from ..errors import ArgumentError, RecipeError
from ..plugins import explain_unknown, load_plugins
from ..weights import Layout
from .architecture import Architecture, architecture_from_layout, format_images

ANY_FORMAT = "safetensors"  # import format of populations of any architecture
_ARCHITECTURES: dict[str, Architecture] = {}
_OWN: set[str] = set()  # names that users registered
_FOR_CLASSES: dict[str, Callable[[str, int], Architecture]] = {}  # name -> function that builds variants
_MAX_CLASSES = 10_000


_BUILTIN = ("cnn", "generalization")  # modules that register architectures on import


def load_builtin() -> None:
    """Import the modules of this package that register architectures, and the user's plugins."""
    for name in _BUILTIN:
        import_module(f".{name}", __package__)
    load_plugins()


def register_architecture(architecture: Architecture) -> Architecture:
    """Register an architecture, so that recipes can name it and `zoo.model(i)` can build it.

    Call this in a plugin file that is passed to the commands with `--plugin`.

    Args:
        architecture: The architecture. Its name must be new, and its family must have no variant for the same images.

    Returns:
        The same architecture.

    Raises:
        ArgumentError: The name is already registered, or the family already has a variant for these images.

    Example:
        >>> from torch import nn
        >>> def build(activation, dropout):
        ...     hidden = [nn.Linear(64, 16), nn.Tanh(), nn.Dropout(dropout)]
        ...     return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(16, 2))
        >>> register_architecture(Architecture("perceptron-example", (1, 8, 8), classes=2, build=build))
        Architecture('perceptron-example', 1×8×8 images of 2 classes, 1,074 weights)
    """
    for name in _BUILTIN:  # first, so that no plugin takes one of their names
        import_module(f".{name}", __package__)
    added = add_architecture(architecture)
    _OWN.add(added.name)
    return added


def is_own(name: str) -> bool:
    """Return True for an architecture of a user, which this package does not have, registered or not."""
    return name in _OWN or find_registered(name) is None


def add_architecture(architecture: Architecture) -> Architecture:
    """Register an architecture without loading the built-in ones, which use this function themselves."""
    name, family = architecture.name, architecture.family
    if name in _ARCHITECTURES:
        raise ArgumentError(f"architecture {name!r} is already registered; choose another name")
    for other in _ARCHITECTURES.values():
        if other.family == family and other.images == architecture.images:
            raise ArgumentError(
                f"architecture {name!r}: family {family!r} already has {other.name!r} for {other.images}"
            )
    _ARCHITECTURES[name] = architecture
    return architecture


def register_for_classes(name: str, make: Callable[[str, int], Architecture]) -> None:
    """Register a function that builds the variant `<name>-<classes>` for any number of classes.

    Args:
        name: The name of the architecture for the usual number of classes.
        make: A function of the name of the variant and its number of classes.
    """
    _FOR_CLASSES[name] = make


def variants_for_classes(classes: int) -> list[str]:
    """Return the names of all variants for this number of classes."""
    load_builtin()
    return [f"{name}-{classes}" for name in _FOR_CLASSES if 1 < classes <= _MAX_CLASSES]


def _make_variant(name: str) -> None:
    base, _, classes = name.rpartition("-")
    is_number = classes.isdecimal() and len(classes) <= len(str(_MAX_CLASSES))  # `int` refuses thousands of digits
    if base in _FOR_CLASSES and is_number and name in variants_for_classes(int(classes)):
        variant = _FOR_CLASSES[base](name, int(classes))
        if variant.classes != _ARCHITECTURES[base].classes:  # otherwise it is the architecture `base` itself
            add_architecture(variant)


def architecture_names() -> list[str]:
    """Return all registered names, sorted."""
    load_builtin()
    return sorted(_ARCHITECTURES)


def find_registered(name: str) -> Architecture | None:
    """Return the registered architecture of this name, None if there is none."""
    load_builtin()
    if name not in _ARCHITECTURES:
        _make_variant(name)
    return _ARCHITECTURES.get(name)


def get_architecture(name: str) -> Architecture:
    """Return the architecture with this name.

    Raises:
        RecipeError: The name is not registered; the message offers the most similar one.
    """
    if (architecture := find_registered(name)) is None:
        raise RecipeError(explain_unknown("architecture", name, architecture_names()))
    return architecture


def find_architecture(name: str, layout: Layout) -> Architecture:
    """Return the architecture of weights that are stored in a layout, registered or not.

    Its modules are those of the registered architecture if they have the stored tensors, which are compared: whoever
    registered the name may have meant another network.

    Args:
        name: The name.
        layout: The stored layout.
    """
    registered = find_registered(name)
    return architecture_from_layout(name, layout) if registered is None else registered.with_layout(layout)


def resolve_architecture(name: str, input_shape: tuple[int, ...], classes: int) -> Architecture:
    """Return the architecture that a recipe names, for the images of the recipe.

    Args:
        name: A name or a family: "cnn-s" selects "cnn-s-rgb" for images with three channels.
        input_shape: Channels, height and width of the images.
        classes: The number of classes.

    Returns:
        The architecture with this name if it fits the images, or else the fitting one of the family.

    Raises:
        RecipeError: The name is unknown, or no architecture with this name or family fits the images.
    """
    load_builtin()
    candidates = [a for a in _ARCHITECTURES.values() if name in (a.name, a.family)]
    if not candidates:
        families = {a.family for a in _ARCHITECTURES.values()}
        raise RecipeError(explain_unknown("architecture", name, sorted({*_ARCHITECTURES, *families})))
    for architecture in sorted(candidates, key=lambda a: a.name != name):
        if (architecture.input_shape, architecture.classes) == (tuple(input_shape), classes):
            return architecture
    variants = ", ".join(f"{a.name} for {a.images}" for a in candidates)
    images = format_images(tuple(input_shape), classes)
    raise RecipeError(f"architecture {name!r} has no variant for {images}; it has {variants}")
