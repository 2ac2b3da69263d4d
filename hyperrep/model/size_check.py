"""The sizes that a config.json asks for, compared with the header of the weights before anything is allocated for them.

A network of a billion blocks, or of a width of 20,000, must not take memory because a small text file says so.
"""

import re
from collections.abc import Callable, Mapping

import torch
from torch import nn

from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.zoo import SafetensorsHeader

_BLOCK = re.compile(r"encoder\.layers\.(\d+)\..*")


def check_sizes(
    num_blocks: int, header: SafetensorsHeader, build: Callable[[], nn.Module], *, strict: bool = True
) -> None:
    """Check that the tensors of a configuration are those of a file.

    Args:
        num_blocks: The blocks of the configuration.
        header: The header of the file.
        build: Builds the module of the configuration; it is called on the meta device, which has no memory.
        strict: Refuse tensors that are missing or superfluous.

    Raises:
        FormatError: The file has other blocks, or a tensor of another shape.
    """
    blocks = len({match[1] for name in header.tensors if (match := _BLOCK.fullmatch(name))})
    if num_blocks != blocks:  # first, because even modules without memory take time
        raise FormatError(f"config.json says {num_blocks:,} blocks, but the weights have {blocks:,}")
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
    _compare_shapes(expected, {name: entry.shape for name, entry in header.tensors.items()}, strict=strict)


def _compare_shapes(
    expected: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]], *, strict: bool
) -> None:
    for name, shape in expected.items():
        if name not in shapes and strict:
            raise FormatError(f"the weights have no tensor {name}, which config.json asks for")
        if shapes.get(name, shape) != shape:
            raise FormatError(f"config.json asks for {name} of shape {shape}, but the weights have {shapes[name]}")
    if strict and (extra := next((name for name in shapes if name not in expected), None)) is not None:
        raise FormatError(f"the weights have a tensor {extra}, which config.json does not ask for")
