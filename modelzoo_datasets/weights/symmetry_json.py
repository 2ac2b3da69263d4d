"""A symmetry as plain JSON values: with it and a layout, weights are aligned without the module."""

from collections.abc import Mapping
from typing import Any

from ..errors import FormatError
from .layout import Layout
from .symmetry import Group, Symmetry, UnitAxis


def symmetry_to_json(symmetry: Symmetry) -> list[dict[str, Any]]:
    """Return a symmetry as plain JSON values: its groups, each with the axes of the weight vector that it indexes."""
    return [
        {
            "units": group.units,
            "signed": group.signed,
            "axes": [{"start": axis.start, "before": axis.before, "after": axis.after} for axis in group.axes],
        }
        for group in symmetry
    ]


def symmetry_from_json(values: Any, layout: Layout) -> Symmetry:
    """Return the symmetry that `symmetry_to_json` wrote, for weights of a layout.

    Raises:
        FormatError: A value is malformed, or an axis is not that of one tensor of the layout, so that other numbers
            would be exchanged.
    """
    if not isinstance(values, list):
        raise FormatError(f"symmetry: expected a list of groups, got {str(values)[:80]}")
    sizes = {slot.start: slot.size for slot in layout.slots if slot.size}
    return tuple(_read_group(value, sizes) for value in values)


def _read_group(value: Any, sizes: Mapping[int, int]) -> Group:
    """Read a group; `sizes` has the size of the tensor that starts at each offset."""
    if not isinstance(value, Mapping) or not isinstance(value.get("axes"), list) or not value["axes"]:
        raise FormatError(f"symmetry: expected a group with a list of axes, got {str(value)[:80]}")
    units, signed = value.get("units"), value.get("signed")
    if type(units) is not int or units < 1 or type(signed) is not bool:
        raise FormatError(f"symmetry: expected units from 1 and signed true or false, got {str((units, signed))[:80]}")
    return Group(units, tuple(_read_axis(axis, units, sizes) for axis in value["axes"]), signed)


def _read_axis(value: Any, units: int, sizes: Mapping[int, int]) -> UnitAxis:
    names = ("start", "before", "after")
    numbers: list[Any] = [value.get(name) for name in names] if isinstance(value, Mapping) else []
    if not numbers or not all(type(number) is int and number >= 0 for number in numbers):
        raise FormatError(f"symmetry: expected an axis of whole numbers, got {str(value)[:80]}")
    start, before, after = numbers
    if sizes.get(start) != before * units * after:
        raise FormatError(
            f"symmetry: an axis names {before} x {units} x {after} numbers at {start}, where the layout has no such "
            "tensor"
        )
    return UnitAxis(start, before, units, after)
