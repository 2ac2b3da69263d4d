"""Old `.pt` checkpoints: state dicts of plain tensors, and nothing else, ever.

P numbers of a state.
"""

import io
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._util import natural_key
from ..architectures import Architecture, architecture_names, get_architecture, variants_for_classes
from ..errors import FormatError, RecipeError
from ..weights import Layout
from .skip_report import Skipped

_WRAPPERS = ("model_state_dict", "state_dict", "model")
_SLACK = 1_000_000  # bytes that a checkpoint may have beyond twice its numbers: names, padding, log sigma² of twins
_OTHER = "is of another architecture"
_NOT_READ = "is truncated or damaged, or no checkpoint"
_ZIP = b"PK"
_PICKLE = b"\x80"  # how a pickle begins that is in no zip
_UNSAFE = "is a pickle that holds more than tensors, which is never executed"


def largest_checkpoint(layout: Layout) -> int:
    """Bytes above which a file is no checkpoint of such a network and is not read."""
    return 4 * 4 * layout.size + _SLACK


def read_checkpoint(content: bytes) -> dict[str, Tensor]:
    """The state dict in a file of `torch.save`; no code in it is run.

    Raises:
        Refused: it is truncated or no checkpoint, or holds anything but tensors and plain containers of them.
    """
    try:
        if content.startswith(_ZIP):  # torch does not compare their checksums
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if archive.testzip() is not None:
                    raise ValueError("a checksum is wrong")
        with warnings.catch_warnings():  # of unusual pickles, which are refused anyhow
            warnings.simplefilter("ignore")
            # The only unpickling there is: weights_only builds tensors and plain containers, and calls nothing else.
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)  # noqa: TID251
    except Exception as error:  # whatever bytes do to a reader: of zips, pickles, structs, unicode
        is_pickle = content.startswith(_PICKLE) or "global" in str(error).lower()
        unsafe = type(error).__name__ == "UnpicklingError" and is_pickle
        raise Skipped(_UNSAFE if unsafe else _NOT_READ) from error
    return _state_dict(found)


def _state_dict(found: Any) -> dict[str, Tensor]:
    """Without the wrappers that some codes put around it, and without the prefix of DataParallel."""
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not found:
        raise Skipped("holds no state dict")
    if not all(isinstance(k, str) and isinstance(v, Tensor) and v.layout is torch.strided for k, v in found.items()):
        raise Skipped("holds no state dict")
    return {name.removeprefix("module."): tensor.detach() for name, tensor in found.items()}


def modules_of(names: Iterable[str], layout: Layout) -> dict[str, str]:
    """The modules of a state's tensors, by these names, -> those of the layout; raises Refused where they do not fit.

    Dropout shifts the numbers in the names of the published CNNs: there, layers are matched in their order.
    """
    theirs = sorted({name.rpartition(".")[0] for name in names}, key=natural_key)
    ours = sorted({slot.module for slot in layout.slots}, key=natural_key)
    if len(theirs) != len(ours):
        raise Skipped(_OTHER)
    return {module: module for module in ours} if set(theirs) == set(ours) else dict(zip(theirs, ours, strict=True))


def renamed(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The state under the names of a layout; raises Refused for other tensors, shapes or types of numbers."""
    place = modules_of(state, layout)
    split = ((*name.rpartition(".")[::2], tensor) for name, tensor in state.items())
    found = {f"{place[module]}.{last}": tensor for module, last, tensor in split}
    if found.keys() != {slot.name for slot in layout.slots}:
        raise Skipped(_OTHER)
    for slot in layout.slots:
        if tuple(found[slot.name].shape) != slot.shape:
            raise Skipped(_OTHER)
        if found[slot.name].dtype is not slot.dtype:
            raise Skipped(f"has numbers of {found[slot.name].dtype}, expected {slot.dtype}")
    return found


def packed(state: Mapping[str, Tensor], layout: Layout) -> Tensor:
    """The weights (P,) of a state under the names of the layout; raises Refused as `renamed` does."""
    try:
        return layout.pack(renamed(state, layout))
    except FormatError as error:
        raise Skipped(_OTHER) from error


def architectures_of(state: Mapping[str, Tensor]) -> list[Architecture]:
    """The architectures whose states have these tensors in this order, registered ones first.

    Log sigma² of sparsified twins are left out of account.
    """
    plain = {name: tensor for name, tensor in state.items() if not re.search(r"\.log_sigma2(_bias)?$", name)}
    matrices = [tensor for tensor in plain.values() if tensor.ndim == 2]
    classes = matrices[-1].shape[0] if matrices else 0  # whatever the parameters say
    found = []
    for name in (*architecture_names(), *variants_for_classes(classes)):
        try:
            architecture = get_architecture(name)
            renamed(plain, architecture.layout)
        except (Skipped, RecipeError):
            continue
        found.append(architecture)
    return found


def described(state: Mapping[str, Tensor]) -> str:
    """Its tensors in words, for errors."""
    shapes = [f"{name} {'×'.join(map(str, tensor.shape))}" for name, tensor in state.items()]
    return ", ".join(shapes[:6]) + (", ..." if len(shapes) > 6 else "")
