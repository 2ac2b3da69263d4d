"""A symmetry in a file: what comes back is what was written, and an axis is that of one tensor."""

import json
from typing import Any

import pytest
from helpers.networks import ALL

from modelzoo_datasets.architectures import cnn_s, get_architecture
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.weights import symmetry_from_json, symmetry_to_json


@pytest.mark.parametrize("name", ALL)
def test_a_symmetry_survives_a_file(name: str) -> None:
    architecture = get_architecture(name)
    text = json.dumps(symmetry_to_json(architecture.symmetry))
    assert symmetry_from_json(json.loads(text), architecture.layout) == architecture.symmetry


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"start": 1}, "symmetry: an axis names 1 x 8 x 25 numbers at 1, where the layout has no such tensor"),
        ({"before": 2}, "symmetry: an axis names 2 x 8 x 25 numbers at 0, where the layout has no such tensor"),
        ({"after": -25}, "symmetry: expected an axis of whole numbers, got "),
        ({"after": True}, "symmetry: expected an axis of whole numbers, got "),
        ({"before": None}, "symmetry: expected an axis of whole numbers, got "),
    ],
)
def test_an_axis_is_that_of_one_tensor(changed: dict[str, Any], message: str) -> None:
    values = symmetry_to_json(cnn_s.symmetry)
    values[0]["axes"][0] |= changed
    with pytest.raises(FormatError) as caught:
        symmetry_from_json(values, cnn_s.layout)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("values", [None, {}, ["group"], [{"units": 0, "signed": True, "axes": [{}]}]])
def test_what_is_no_symmetry_is_refused(values: Any) -> None:
    with pytest.raises(FormatError, match="^symmetry: expected "):
        symmetry_from_json(values, cnn_s.layout)
