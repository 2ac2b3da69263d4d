"""The kernel that trains a whole model per thread block: its sizes in shared memory, its source and its arguments.

The sizes decide the order of sums, so they depend on the network and the batch size alone, never on other models.

Not run on a GPU yet: nvcc compiles the kernel, and the tests run its arithmetic in a CPU build of the same source.

    P weights of a model, C channels, H and W of an image
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from ...errors import NoKernelError
from ...weights import Layout
from ..chain import Stage

SHARED_BYTES = 232_448  # shared memory of a block on H100 and H200: 227 KB
THREADS = 512
OPTIONS = ("-std=c++17",)  # for NVRTC, nvcc and C++ compilers; no fast math: saturation must be exact
GPU_OPTIONS = (*OPTIONS, "-ftz=true")  # for NVRTC and nvcc: CuPy flushes subnormal numbers, whatever it is told
_MAX_TILE = 16  # images
_MAX_PER_THREAD = 4  # units or channels that one thread works on
_GENERATOR_WORDS = 2 * 624
_KERNEL = Path(__file__).parent / "kernel"
_SHARED_HEADER = Path(__file__).parents[1] / "kernel" / "mt19937.hpp"
_PARTS = ("mersenne", "activations", "stage", "epoch")  # each part needs those before it

# Train M models for one epoch: takes the fields of the kernel's `Epoch` (17,) int64 on the device, and M.
LaunchKernel = Callable[[Tensor, int], None]
CompileKernel = Callable[["Block"], LaunchKernel]


@dataclass(frozen=True, kw_only=True)
class KernelEpoch:
    """The tensors of an epoch on the device, in the order of the fields of the kernel's `Epoch`.

    M models, N images, S stages, P weights, Q tables of rates, K steps.
    """

    pixels: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int32
    orders: Tensor  # (M, N) int32
    pixel_table: Tensor  # (C, 256) float32
    weights: Tensor  # (M, P) float32, as the next two
    first_moment: Tensor
    second_moment: Tensor
    rates: Tensor  # (Q, K, 5) float32
    table_of_model: Tensor  # (M,) int32
    adaptive: Tensor  # (M,) int32
    activations: Tensor  # (M, S) int32
    dropouts: Tensor  # (M, S) float32
    seeds: Tensor  # (M,) uint32
    losses: Tensor  # (M,) float64
    correct: Tensor  # (M,) int64

    def pack_fields(self, batch_size: int) -> Tensor:
        """Return all addresses, the number of images and the batch size, as the kernel reads them."""
        addresses = [getattr(self, field.name).data_ptr() for field in fields(self)]
        return torch.tensor([*addresses, len(self.labels), batch_size]).to(self.weights.device)


@dataclass(frozen=True)
class Block:
    """The sizes for a chain: how many images are in shared memory at once, and whether the optimizer's state is."""

    stages: tuple[Stage, ...]
    batch_size: int
    tile: int  # images in shared memory at once
    shares_state: bool  # whether the state of the optimizer is in shared memory

    @classmethod
    def from_stages(cls, stages: Sequence[Stage], batch_size: int, shared_bytes: int = SHARED_BYTES) -> "Block":
        """Choose the largest tile that fits; the optimizer's state is in shared memory unless only one image would fit.

        Args:
            stages: Stages of the chain.
            batch_size: Images of a step.
            shared_bytes: Shared memory of a block.

        Raises:
            NoKernelError: The weights and one image do not fit.
        """
        for shares_state in (True, False):
            for limit in range(min(batch_size, _MAX_TILE), 1 if shares_state and batch_size > 1 else 0, -1):
                tile = -(-batch_size // -(-batch_size // limit))  # evenly distributed
                block = cls(tuple(stages), batch_size, tile, shares_state)
                if block.memory_bytes <= shared_bytes:
                    return block
        raise NoKernelError(f"its weights and one image do not fit into {shared_bytes:,} bytes of shared memory")

    @property
    def memory_bytes(self) -> int:
        """Bytes of shared memory of a block."""
        return 4 * self._array_offsets["end"] + self._winner_bytes + self._mask_bytes

    @cached_property
    def num_parameters(self) -> int:
        """Number of weights and biases P."""
        return sum(_count_parameters(stage) for stage in self.stages)

    @property
    def header(self) -> str:
        """C++ that defines the stages and all sizes; the source of the kernel goes around it."""
        names = [f"Stage{number}" for number in range(len(self.stages))]
        parts = [self._stage_struct(number) for number in range(len(self.stages))]
        parts.append(_struct("Sizes", self._sizes()))
        parts += [_visitor("for_each_stage", names), _visitor("for_each_stage_backwards", names[::-1])]
        return "\n".join(parts) + "\n"

    def kernel_order(self, layout: Layout) -> Tensor:
        """Return for each number in the order of the kernel its index in a vector of the layout, (P,)."""
        starts = {slot.name: slot.start for slot in layout.slots}
        parts = []
        for stage in self.stages:
            if stage.weight is not None:
                shape = (stage.units, stage.input_shape[0], *stage.kernel)
                parts.append((starts[stage.weight] + torch.arange(prod(shape)).view(shape).movedim(0, 3)).flatten())
            if stage.bias is not None:
                parts.append(starts[stage.bias] + torch.arange(stage.units))
        return torch.cat(parts)

    @cached_property
    def _array_offsets(self) -> dict[str, int]:
        """Offsets of the arrays of 4-byte numbers, in numbers."""
        splits = [(self._count_splits(stage), _count_parameters(stage)) for stage in self.stages]
        sizes = {
            "weights": self.num_parameters * (4 if self.shares_state else 2),  # gradients, and state of the optimizer
            "tile": self.tile * (prod(self.stages[0].input_shape) + 2 * sum(map(_count_outputs, self.stages))),
            "scratch": max(n * numbers if n > 1 else 0 for n, numbers in splits),
            "losses": self.tile,
            "correct": self.tile,
            "generator": _GENERATOR_WORDS,
        }
        offsets, offset = {}, 0
        for name, size in sizes.items():
            offsets[name], offset = offset, offset + size
        return offsets | {"end": offset}

    @property
    def _winner_bytes(self) -> int:
        return self.tile * sum(_count_outputs(stage) for stage in self.stages if stage.pool)

    @property
    def _mask_bytes(self) -> int:
        """Bytes of the dropout masks of a batch: one bit per output; every stage begins with a new byte."""
        return self.batch_size * sum(map(_count_outputs, self.stages)) // 8 + len(self.stages) + 1

    def _count_splits(self, stage: Stage) -> int:
        """Return into how many partial sums the gradient of a weight is divided, so that all threads have work."""
        if stage.weight is None:
            return 1
        rows = stage.units * stage.input_shape[0] * stage.kernel[0]
        return max(1, min(THREADS // rows, self.tile * prod(stage.output_shape[1:])))

    def _count_per_thread(self, count: int, positions: int) -> int:
        """Return how many of `count` units or channels one thread does: several if all threads still have work."""
        divisors = [n for n in range(1, _MAX_PER_THREAD + 1) if count % n == 0]
        busy = [n for n in divisors if self.tile * (count // n) * positions >= THREADS]
        return max(busy, default=1)

    def _stage_struct(self, number: int) -> str:
        stage = self.stages[number]
        channels, height, width = stage.input_shape
        units, rows, columns = stage.output_shape
        has_weights = stage.weight is not None
        input_offset, output_offset, winner_offset = self._stage_offsets(number)
        previous = self._stage_offsets(number - 1)[1] if number else 0
        values = {
            "NUMBER": number,
            **{"CHANNELS": channels, "HEIGHT": height, "WIDTH": width, "INPUTS": prod(stage.input_shape)},
            **{"UNITS": units, "ROWS": rows, "COLUMNS": columns, "OUTPUTS": _count_outputs(stage)},
            **{"KERNEL_HEIGHT": stage.kernel[0], "KERNEL_WIDTH": stage.kernel[1], "CONVOLVES": int(has_weights)},
            **{"BIAS": int(stage.bias is not None), "POOLS": int(stage.pool)},
            "UNITS_PER_THREAD": self._count_per_thread(units, rows * columns) if has_weights else 1,
            "CHANNELS_PER_THREAD": self._count_per_thread(channels, height * width) if has_weights else 1,
            "SPLITS": self._count_splits(stage),
            "WEIGHTS": _count_parameters(stage) - (units if stage.bias is not None else 0),
            "WEIGHTS_OFFSET": sum(map(_count_parameters, self.stages[:number])),
            "INPUT_OFFSET": input_offset,
            "INPUT_SLOPE_OFFSET": previous + self.tile * prod(stage.input_shape) if number else 0,
            "OUTPUT_OFFSET": output_offset,
            "SLOPE_OFFSET": output_offset + self.tile * _count_outputs(stage),
            "WINNERS_OFFSET": winner_offset,
        }
        earlier = sum(map(_count_outputs, self.stages[:number]))
        mask = f"    DEVICE static int mask_offset(int batch) {{ return batch * {earlier} / 8 + NUMBER; }}\n"
        return _struct(f"Stage{number}", values, mask)

    def _stage_offsets(self, number: int) -> tuple[int, int, int]:
        """Return the offsets of inputs, outputs and winners of a stage within the tile; slopes follow outputs."""
        offsets = [0, self.tile * prod(self.stages[0].input_shape)]
        winners = 0
        for stage in self.stages[:number]:
            offsets.append(offsets[-1] + 2 * self.tile * _count_outputs(stage))
            winners += self.tile * _count_outputs(stage) if stage.pool else 0
        return offsets[-2] if number else 0, offsets[-1], winners

    def _sizes(self) -> dict[str, int]:
        first, last, offsets = self.stages[0], len(self.stages) - 1, self._array_offsets
        logits = self._stage_offsets(last)[1]
        return {
            **{"THREADS": THREADS, "TILE": self.tile, "STAGES": last + 1, "STATE_IS_SHARED": int(self.shares_state)},
            **{"PARAMETERS": self.num_parameters, "CHANNELS": first.input_shape[0], "INPUTS": prod(first.input_shape)},
            **{"CLASSES": self.stages[-1].units, "LOGITS_OFFSET": logits},
            "LOGIT_SLOPES_OFFSET": logits + self.tile * self.stages[-1].units,
            **{"TILE_OFFSET": offsets["tile"], "SCRATCH_OFFSET": offsets["scratch"]},
            **{"LOSSES_OFFSET": offsets["losses"], "CORRECT_OFFSET": offsets["correct"]},
            **{"GENERATOR_OFFSET": offsets["generator"], "BYTES_OFFSET": offsets["end"]},
            "WINNER_BYTES": self._winner_bytes,
        }


def _count_outputs(stage: Stage) -> int:
    return prod(stage.output_shape)


def _count_parameters(stage: Stage) -> int:
    """Return the number of weights and biases."""
    weights = stage.units * stage.input_shape[0] * prod(stage.kernel) if stage.weight is not None else 0
    return weights + (stage.units if stage.bias is not None else 0)


def _struct(name: str, values: dict[str, int], more: str = "") -> str:
    lines = "".join(f"    static constexpr int {key} = {value};\n" for key, value in values.items())
    return f"struct {name} {{\n{lines}{more}}};"


def _visitor(name: str, stages: Sequence[str]) -> str:
    calls: Iterator[str] = (f"    visit({stage}{{}});\n" for stage in stages)
    return f"template <class Visit>\nDEVICE void {name}(Visit visit) {{\n{''.join(calls)}}}"


def kernel_source(block: Block) -> str:
    """Return the whole kernel as one text, so that a cache of compiled kernels notices every change."""
    files = [_KERNEL / f"{name}.cuh" for name in _PARTS]
    parts = [_read_header(_KERNEL / "portable.cuh"), block.header, _read_header(_SHARED_HEADER)]
    return "\n".join([*parts, *map(_read_header, files)])


def _read_header(path: Path) -> str:
    """Read a header without the lines that matter only between files."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith(("#pragma once", '#include "')))
