"""How a chain is laid out in the shared memory of a thread block: the sizes that the kernel is compiled for.

Sizes depend on the network and the batch size alone, never on the models beside, since they decide the order of sums.

    P weights of a model
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from ...errors import NoKernelError
from ...weights import Layout
from ..chain import Stage

SHARED_BYTES = 232_448  # that a block may have on H100 and H200: 227 KB
THREADS = 512
_MOST_IMAGES = 16  # of a tile
_MOST_AT_ONCE = 4  # units or channels that one thread works on
_GENERATOR_WORDS = 2 * 624


@dataclass(frozen=True)
class Block:
    """Sizes for a chain: how many images are in shared memory at a time, and whether the optimizer's state is."""

    stages: tuple[Stage, ...]
    batch: int
    tile: int
    shares_state: bool

    @classmethod
    def fitting(cls, stages: Sequence[Stage], batch: int, shared_bytes: int = SHARED_BYTES) -> "Block":
        """The largest tiles that fit; with the optimizer's state in shared memory unless that leaves but one image.

        Raises:
            NoKernelError: not even one image fits.
        """
        for shares_state in (True, False):
            for most in range(min(batch, _MOST_IMAGES), 1 if shares_state and batch > 1 else 0, -1):
                tile = -(-batch // -(-batch // most))  # evenly spread
                found = cls(tuple(stages), batch, tile, shares_state)
                if found.shared_bytes <= shared_bytes:
                    return found
        raise NoKernelError(f"its weights and one image do not fit into {shared_bytes:,} bytes of shared memory")

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        return 4 * self._numbers["end"] + self._winners + self._masks

    @cached_property
    def parameters(self) -> int:
        """P."""
        return sum(_numbers_of(stage) for stage in self.stages)

    @property
    def head(self) -> str:
        """C++ that defines the stages and all sizes; the kernel's source goes around it."""
        names = [f"Stage{number}" for number in range(len(self.stages))]
        parts = [self._stage(number) for number in range(len(self.stages))]
        parts.append(_struct("Sizes", self._sizes()))
        parts += [_visitor("for_each_stage", names), _visitor("for_each_stage_backwards", names[::-1])]
        return "\n".join(parts) + "\n"

    def places(self, layout: Layout) -> Tensor:
        """(P,): where each number of the kernel's order is in a vector of the layout."""
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
    def _numbers(self) -> dict[str, int]:
        """Where the arrays of 4-byte numbers begin, in numbers."""
        counts = {
            "weights": self.parameters * (4 if self.shares_state else 2),  # and gradients, and the optimizer's state
            "tile": self.tile * (prod(self.stages[0].input_shape) + 2 * sum(map(_outputs, self.stages))),
            "scratch": max(self._splits(s) * _numbers_of(s) if self._splits(s) > 1 else 0 for s in self.stages),
            "losses": self.tile,
            "right": self.tile,
            "generator": _GENERATOR_WORDS,
        }
        begins, at = {}, 0
        for name, count in counts.items():
            begins[name], at = at, at + count
        return begins | {"end": at}

    @property
    def _winners(self) -> int:
        """Bytes."""
        return self.tile * sum(_outputs(stage) for stage in self.stages if stage.pool)

    @property
    def _masks(self) -> int:
        """Bytes of the dropout masks of a batch: a bit per output; every stage begins with a byte of its own."""
        return self.batch * sum(map(_outputs, self.stages)) // 8 + len(self.stages) + 1

    def _splits(self, stage: Stage) -> int:
        """Into how many sums the gradient of a weight is divided, so that all threads have one."""
        if stage.weight is None:
            return 1
        rows = stage.units * stage.input_shape[0] * stage.kernel[0]
        return max(1, min(THREADS // rows, self.tile * prod(stage.output_shape[1:])))

    def _at_once(self, count: int, places: int) -> int:
        """How many of `count` units or channels a thread does: several if all threads have work all the same."""
        fitting = [n for n in range(1, _MOST_AT_ONCE + 1) if count % n == 0]
        busy = [n for n in fitting if self.tile * (count // n) * places >= THREADS]
        return max(busy, default=1)

    def _stage(self, number: int) -> str:
        stage = self.stages[number]
        channels, height, width = stage.input_shape
        units, rows, columns = stage.output_shape
        convolves = stage.weight is not None
        inputs_at, outputs_at, winners_at = self._arrays(number)
        before = self._arrays(number - 1)[1] if number else 0
        values = {
            "kNumber": number,
            **{"kChannels": channels, "kHeight": height, "kWidth": width, "kInputs": prod(stage.input_shape)},
            **{"kUnits": units, "kRows": rows, "kColumns": columns, "kOutputs": _outputs(stage)},
            **{"kTall": stage.kernel[0], "kWide": stage.kernel[1], "kConvolves": int(convolves)},
            **{"kBias": int(stage.bias is not None), "kPools": int(stage.pool)},
            "kUnitsAtOnce": self._at_once(units, rows * columns) if convolves else 1,
            "kChannelsAtOnce": self._at_once(channels, height * width) if convolves else 1,
            "kSplits": self._splits(stage),
            "kWeights": _numbers_of(stage) - (units if stage.bias is not None else 0),
            "kWeightsAt": sum(map(_numbers_of, self.stages[:number])),
            **{"kInputAt": inputs_at, "kInputSlopeAt": before + self.tile * prod(stage.input_shape) if number else 0},
            **{"kOutputAt": outputs_at, "kSlopeAt": outputs_at + self.tile * _outputs(stage)},
            "kWinnersAt": winners_at,
        }
        earlier = sum(map(_outputs, self.stages[:number]))
        mask = f"    DEVICE static int mask_at(int batch) {{ return batch * {earlier} / 8 + kNumber; }}\n"
        return _struct(f"Stage{number}", values, mask)

    def _arrays(self, number: int) -> tuple[int, int, int]:
        """Where the inputs, outputs and winners of a stage begin in the tile's arrays; slopes follow outputs."""
        begins = [0, self.tile * prod(self.stages[0].input_shape)]
        winners = 0
        for stage in self.stages[:number]:
            begins.append(begins[-1] + 2 * self.tile * _outputs(stage))
            winners += self.tile * _outputs(stage) if stage.pool else 0
        return begins[-2] if number else 0, begins[-1], winners

    def _sizes(self) -> dict[str, int]:
        first, last = self.stages[0], len(self.stages) - 1
        logits = self._arrays(last)[1]
        return {
            **{"kThreads": THREADS, "kTile": self.tile, "kStages": last + 1, "kStateIsShared": int(self.shares_state)},
            **{"kParameters": self.parameters, "kChannels": first.input_shape[0], "kInputs": prod(first.input_shape)},
            **{"kClasses": self.stages[-1].units, "kLogitsAt": logits},
            "kLogitSlopesAt": logits + self.tile * self.stages[-1].units,
            **{"kNumbersAt": self._numbers["tile"], "kScratchAt": self._numbers["scratch"]},
            **{"kLossesAt": self._numbers["losses"], "kRightAt": self._numbers["right"]},
            **{"kGeneratorAt": self._numbers["generator"], "kBytesAt": self._numbers["end"], "kWinners": self._winners},
        }


def _outputs(stage: Stage) -> int:
    return prod(stage.output_shape)


def _numbers_of(stage: Stage) -> int:
    """Weights and biases."""
    weights = stage.units * stage.input_shape[0] * prod(stage.kernel) if stage.weight is not None else 0
    return weights + (stage.units if stage.bias is not None else 0)


def _struct(name: str, values: dict[str, int], more: str = "") -> str:
    lines = "".join(f"    static constexpr int {key} = {value};\n" for key, value in values.items())
    return f"struct {name} {{\n{lines}{more}}};"


def _visitor(name: str, stages: Sequence[str]) -> str:
    calls: Iterator[str] = (f"    visit({stage}{{}});\n" for stage in stages)
    return f"template <class Visit>\nDEVICE void {name}(Visit visit) {{\n{''.join(calls)}}}"
