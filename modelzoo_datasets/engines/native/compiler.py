"""Generate the C++ source of a network and compile it once: a cache folder keeps libraries by a hash of their inputs.

The source names the stages of the network as template arguments of the kernel beside this file. The cache folder
belongs to the user. A folder that others can write to is not trusted, since its code would run in this process. The
name of a library holds the hash of its bytes, because loading a truncated library would end the process.
"""

import atexit
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..._util import file_sha256, user_cache_folder
from ...errors import CompilerError
from ...zoo import flush_to_disk, is_private
from ..chain import Stage

KERNEL = Path(__file__).parent / "kernel"
SHARED_HEADER = Path(__file__).parents[1] / "kernel" / "mt19937.hpp"
_log = logging.getLogger(__name__)
_HASH_DIGITS = 32  # so many of the SHA-256 of a library are in its name
_COMPILERS = ("c++", "g++", "clang++")
# Contraction to fused multiply-adds makes the arithmetic fast; no flag may reorder sums.
_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
_AVX512 = ("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mprefer-vector-width=512")
_AVX2 = ("-mavx2", "-mfma", "-mbmi2")


@dataclass(frozen=True)
class InstructionSet:
    """Vector instructions of a processor, as compiler flags. Results do not depend on `widest`."""

    name: str
    flags: tuple[str, ...]
    widest: int  # floats in the widest vector


PORTABLE = InstructionSet("portable", (), 8)
AVX2 = InstructionSet("avx2", _AVX2, 8)
AVX512 = InstructionSet("avx512", (*_AVX2, *_AVX512), 16)


@cache
def detect_instruction_set() -> InstructionSet:
    """Return the best instruction set of this machine."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return PORTABLE
    flags = _processor_flags()
    if {"avx2", "fma", "bmi2", "avx512f", "avx512vl", "avx512dq", "avx512bw"} <= flags:
        return AVX512
    return AVX2 if {"avx2", "fma", "bmi2"} <= flags else PORTABLE


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def kernel_text() -> str:
    """Return the text of all headers of the kernel, on which every compiled network depends."""
    return "".join(path.read_text() for path in (SHARED_HEADER, *sorted(KERNEL.glob("*.hpp"))))


def network_source(stages: Sequence[Stage], pitches: Sequence[int]) -> str:
    """Return the C++ source of a network.

    Args:
        stages: Stages of the network.
        pitches: Floats per pixel of the input of every stage, see `input_pitches`.
    """
    types = ",\n    ".join(_stage_type(stage, pitch) for stage, pitch in zip(stages, pitches, strict=True))
    return f'#include "model.hpp"\n\nusing Chain = zoo::Network<\n    {types}>;\n\nZOO_EXPORT(Chain)\n'


def input_pitches(stages: Sequence[Stage], widest: int) -> list[int]:
    """Return the floats per pixel of the input of every stage: its channels, padded to whole vectors after stage 1.

    The kernel has the same rule in `lanes_for`, and checks it.
    """
    return [stages[0].input_shape[0], *(_pad_to_lanes(stage.units, widest) for stage in stages[:-1])]


def _pad_to_lanes(units: int, widest: int) -> int:
    lanes = 4 if units <= 4 else 8 if units <= 8 or widest == 8 or -(-units // 16) * 16 > -(-units // 8) * 8 else 16
    return -(-units // lanes) * lanes


def _stage_type(stage: Stage, pitch: int) -> str:
    """Return the C++ type of a stage."""
    channels, height, width = stage.input_shape
    if stage.weight is None:
        return f"zoo::Pooling<{channels}, {pitch}, {height}, {width}>"
    if stage.linear:  # the kernel sees its input as one row of pixels
        height, width = 1, height * width
    kernel = (1, width) if stage.linear else stage.kernel
    sizes = (channels, pitch, height, width, stage.units, *kernel)
    flags = ("true" if flag else "false" for flag in (stage.pool, stage.bias is not None, stage.linear))
    return f"zoo::Convolution<{', '.join([*map(str, sizes), *flags])}>"


def compile_library(source: str, depends_on: str, include: Path, target: InstructionSet) -> Path:
    """Return the shared library of a source text; compile it unless it is in the cache, intact.

    Args:
        source: Text of the source.
        depends_on: Text of everything that the source includes.
        include: Folder of the headers.
        target: Instruction set to compile for.

    Raises:
        CompilerError: There is no compiler, it failed, or the library could not be written.
    """
    compiler = _find_compiler()
    parts = (source, depends_on, *_FLAGS, target.name, *target.flags, _compiler_version(compiler))
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    folder = _cache_folder()
    for library in sorted(folder.glob(f"{digest}-*.so")):
        if is_intact(library):
            return library
        _log.warning("the compiled kernel %s is damaged; it is compiled again", library)
        library.unlink(missing_ok=True)
    try:
        library = _run_compiler(compiler, source, include, target, folder / digest)
    except OSError as error:
        raise CompilerError(f"the compiled kernel cannot be written to {folder}: {error}") from error
    if not is_intact(library):
        raise CompilerError(f"the compiled kernel {library} is damaged again; is the disk of {folder} sound?")
    return library


def check_library(path: Path) -> str:
    """Return "intact", "damaged" or "unused" for a file of the cache folder; earlier releases wrote other names."""
    if path.suffix != ".so" or "-" not in path.stem:
        return "unused"
    return "intact" if is_intact(path) else "damaged"


def is_intact(library: Path) -> bool:
    """Tell whether a library in the cache has the bytes that the compiler wrote."""
    try:
        return library.stem.rpartition("-")[2] == file_sha256(library)[:_HASH_DIGITS]
    except OSError:
        return False


def _run_compiler(compiler: str, source: str, include: Path, target: InstructionSet, stem: Path) -> Path:
    """Compile to a temporary file, and rename it to the stem and its hash: other processes never see half a library.

    Raises:
        CompilerError: The compiler failed.
        OSError: The library cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=stem.parent, prefix=".building-") as folder:
        text, out = Path(folder) / "network.cpp", Path(folder) / "network.so"
        text.write_text(source)
        command = [compiler, *_FLAGS, *target.flags, "-Wno-psabi", f"-I{include}", str(text), "-o", str(out)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            first = next((line for line in result.stderr.splitlines() if "error" in line), result.stderr[:200])
            raise CompilerError(f"{compiler} cannot compile the kernel: {first.strip()}")
        flush_to_disk(out)
        return out.replace(stem.with_name(f"{stem.name}-{file_sha256(out)[:_HASH_DIGITS]}.so"))


@cache
def _find_compiler() -> str:
    requested = os.environ.get("CXX")
    for name in (requested,) if requested else _COMPILERS:
        if path := shutil.which(name):
            return path
    reason = f"CXX is {requested!r}, which is not installed" if requested else f"install one of {', '.join(_COMPILERS)}"
    raise CompilerError(f"no C++ compiler: {reason}")


@cache
def _compiler_version(compiler: str) -> str:
    result = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise CompilerError(f"{compiler} --version failed: {result.stderr.strip()}")
    return result.stdout


@cache
def _cache_folder() -> Path:
    """Return the cache folder of the user, or a temporary one if that cannot be trusted or written."""
    folder = user_cache_folder("native")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if is_private(folder) and os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    temporary = Path(tempfile.mkdtemp(prefix="modelzoo-native-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return temporary
