"""Compile C++ with the system's compiler, once: libraries are kept in a cache folder by a hash of all they depend on.

The folder is the user's own, and one that others could have written into is not trusted: code from it would run here.
"""

import atexit
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..._util import user_cache_folder
from ...errors import CompilerError

_COMPILERS = ("c++", "g++", "clang++")
# Contraction to fused multiply-adds is what makes the arithmetic fast; nothing here may reorder sums.
_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
_AVX512 = ("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mprefer-vector-width=512")
_AVX2 = ("-mavx2", "-mfma", "-mbmi2")


@dataclass(frozen=True)
class Instructions:
    """What a processor offers, as flags of a compiler; results do not depend on `widest`."""

    name: str
    flags: tuple[str, ...]
    widest: int  # numbers of a vector


PORTABLE = Instructions("portable", (), 8)
AVX2 = Instructions("avx2", _AVX2, 8)
AVX512 = Instructions("avx512", (*_AVX2, *_AVX512), 16)


@cache
def instructions() -> Instructions:
    """The best that this machine has."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return PORTABLE
    there = _processor_flags()
    if {"avx2", "fma", "bmi2", "avx512f", "avx512vl", "avx512dq", "avx512bw"} <= there:
        return AVX512
    return AVX2 if {"avx2", "fma", "bmi2"} <= there else PORTABLE


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def compiled(source: str, depends_on: str, include: Path, target: Instructions) -> Path:
    """The library of a source text, compiled unless the cache has it.

    Args:
        depends_on: the text of everything that the source includes.
        include: folder of what it includes.

    Raises:
        CompilerError: no compiler, or it failed.
    """
    compiler = _compiler()
    parts = (source, depends_on, *_FLAGS, target.name, *target.flags, _version(compiler))
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    library = _cache_folder() / f"{digest}.so"
    if not library.is_file():
        _compile(compiler, source, include, target, library)
    return library


def _compile(compiler: str, source: str, include: Path, target: Instructions, library: Path) -> None:
    """Into a file of its own first: whoever compiles the same at the same time has another, and the last one stays."""
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".building-") as folder:
        text, out = Path(folder) / "network.cpp", Path(folder) / library.name
        text.write_text(source)
        command = [compiler, *_FLAGS, *target.flags, "-Wno-psabi", f"-I{include}", str(text), "-o", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
            raise CompilerError(f"{compiler} cannot compile the kernel: {first.strip()}")
        out.replace(library)


@cache
def _compiler() -> str:
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else _COMPILERS:
        if found := shutil.which(name):
            return found
    named = f"CXX names {wanted!r}, which is not there" if wanted else f"none of {', '.join(_COMPILERS)} is installed"
    raise CompilerError(f"no C++ compiler: {named}")


@cache
def _version(compiler: str) -> str:
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CompilerError(f"{compiler} --version failed: {done.stderr.strip()}")
    return done.stdout


@cache
def _cache_folder() -> Path:
    """The user's folder of compiled kernels; one of this process alone where that one cannot be trusted or written."""
    folder = user_cache_folder("native")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if _is_ours(folder) and os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    ours = Path(tempfile.mkdtemp(prefix="modelzoo-native-"))
    atexit.register(shutil.rmtree, ours, ignore_errors=True)
    return ours


def _is_ours(folder: Path) -> bool:
    """Whether nobody else could have put a file there."""
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
