"""The C++ source of one network: its stages as template arguments of the kernel beside this file."""

from collections.abc import Sequence
from pathlib import Path

from ..chain import Stage

KERNEL = Path(__file__).parent / "kernel"


def kernel_text() -> str:
    """All headers of the kernel: what a compiled network depends on beside its own source."""
    return "".join(path.read_text() for path in sorted(KERNEL.glob("*.hpp")))


def network_source(stages: Sequence[Stage], pitches: Sequence[int]) -> str:
    """The source of a network.

    Args:
        pitches: how many numbers a pixel of each stage's input takes, see `input_pitches`.
    """
    types = ",\n    ".join(_type(stage, pitch) for stage, pitch in zip(stages, pitches, strict=True))
    return f'#include "model.hpp"\n\nusing Chain = zoo::Network<\n    {types}>;\n\nZOO_EXPORT(Chain)\n'


def input_pitches(stages: Sequence[Stage], widest: int) -> list[int]:
    """Numbers per pixel of every stage's input: its channels, behind the first stage padded to whole vectors.

    The same rule as `lanes_for` of the kernel, which checks it.
    """
    return [stages[0].input_shape[0], *(_padded(stage.units, widest) for stage in stages[:-1])]


def _padded(units: int, widest: int) -> int:
    lanes = 4 if units <= 4 else 8 if units <= 8 or widest == 8 or -(-units // 16) * 16 > -(-units // 8) * 8 else 16
    return -(-units // lanes) * lanes


def _type(stage: Stage, pitch: int) -> str:
    channels, height, width = stage.input_shape
    if stage.weight is None:
        return f"zoo::Pooling<{channels}, {pitch}, {height}, {width}>"
    if stage.linear:  # its input is one row of pixels, whatever it was
        height, width = 1, height * width
    kernel = (1, width) if stage.linear else stage.kernel
    sizes = (channels, pitch, height, width, stage.units, *kernel)
    flags = ("true" if flag else "false" for flag in (stage.pool, stage.bias is not None, stage.linear))
    return f"zoo::Convolution<{', '.join([*map(str, sizes), *flags])}>"
