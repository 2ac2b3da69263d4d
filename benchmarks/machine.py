"""The machine that a benchmark ran on: its name, its arithmetic peak, and what a model asks of it."""

import os
import platform
import shutil
import statistics
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from modelzoo_datasets.engines.chain import Stage, get_chain

_SOURCE = Path(__file__).parent / "fma_peak.cpp"


def heading(cores: int, packages: Iterable[str]) -> str:
    """Processor, cores used, and versions of those packages that are installed."""
    versions = [f"Python {platform.python_version()}"]
    for name in packages:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"{_processor()}, {cores} of {os.cpu_count()} cores, {', '.join(versions)}"


def load() -> str:
    """The load average of the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


def usable_cores() -> int:
    """As many as this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()


@dataclass(frozen=True)
class Flops:
    """Of one image forwards and backwards: a multiplication and an addition are two."""

    dense: int
    sparse: int  # of a pooled convolution only one place in four has a gradient


def flops(architecture: str) -> Flops:
    """Of the convolutions and linear layers alone; the first one needs no gradient of its input."""
    stages = [stage for stage in get_chain(architecture, "tanh", 0.0) if stage.weight is not None]
    dense = sparse = 0
    for number, stage in enumerate(stages):
        gradients = 1 if number == 0 else 2  # of the weights, and of the input
        places = stage.conv_size[0] * stage.conv_size[1]
        dense += 2 * _multiplications(stage, places) * (1 + gradients)
        with_gradient = stage.output_shape[1] * stage.output_shape[2]
        sparse += 2 * (_multiplications(stage, places) + gradients * _multiplications(stage, with_gradient))
    return Flops(dense, sparse)


def _multiplications(stage: Stage, places: int) -> int:
    height, width = stage.kernel
    return places * stage.units * stage.input_shape[0] * height * width


@dataclass
class Peak:
    """GFLOP/s of one core, measured on all cores at once; without a compiler there is none."""

    program: Path | None
    cores: int
    seconds: float
    found: list[float] = field(default_factory=list)

    @classmethod
    def compiled(cls, folder: Path, cores: int, seconds: float) -> "Peak":
        """Compile the loop into a folder."""
        compiler, program = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++"), folder / "fma_peak"
        if compiler is None:
            return cls(None, cores, seconds)
        command = [compiler, "-O3", "-march=native", "-std=c++17", "-o", str(program), str(_SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True)
        return cls(program if done.returncode == 0 else None, cores, seconds)

    def measure(self) -> None:
        """One more measurement, per second of CPU time."""
        if self.program is None:
            return
        command = [str(self.program), str(self.seconds)]
        running = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            for _ in range(self.cores)
        ]
        self.found.append(statistics.mean(float(process.communicate()[0]) for process in running))

    @property
    def gflops(self) -> float | None:
        """The median so far."""
        return statistics.median(self.found) if self.found else None
