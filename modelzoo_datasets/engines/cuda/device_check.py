"""The self-check of the engine on the GPU of this machine; its result is kept in the user's cache.

A result belongs to a GPU, its driver, all libraries that compute on it, and the source of the engines: where one of
them changes, the check runs again.
"""

import contextlib
import hashlib
import json
import logging
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..._util import one_line, user_cache_folder, versions
from ...errors import CompilerError, DiskFullError, NoCompilerError
from ...zoo import is_private, write_bytes
from ..base import Engine
from ..native.native_engine import NativeEngine
from ..native.native_trainer import get_compiled_network
from ..self_check import CHAIN_CASES, OTHER_CASES, find_deviation
from ..torch_engine import TorchEngine
from .cuda_engine import CudaEngine
from .kernel_compiler import find_compiler_versions

_LOG = logging.getLogger(__name__)
_FORMAT = "modelzoo-self-check-1"
_ENGINES = Path(__file__).parents[1]
_SECONDS = 10  # for nvidia-smi
_reasons: dict["DeviceInfo", str | None] = {}  # what this process has found out


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """Everything that a result of the self-check depends on."""

    name: str  # name of the GPU
    capability: str  # compute capability, such as 9.0
    driver: str
    package_version: str
    torch_version: str
    cupy_version: str  # "none" if CuPy or NVRTC is missing, as in the next one
    nvrtc_version: str
    source: str  # SHA-256 of the source of all engines and kernels

    @classmethod
    def from_device(cls, device: torch.device) -> "DeviceInfo":
        """Ask a GPU, its driver and the libraries."""
        own = versions()
        try:
            compiler = find_compiler_versions()
        except NoCompilerError:
            compiler = {"cupy": "none", "nvrtc": "none"}
        return cls(
            name=torch.cuda.get_device_name(device),
            capability=".".join(map(str, torch.cuda.get_device_capability(device))),
            driver=_find_driver_version(),
            package_version=own["modelzoo-datasets"],
            torch_version=own["torch"],
            cupy_version=compiler["cupy"],
            nvrtc_version=compiler["nvrtc"],
            source=hash_source(),
        )

    @property
    def digest(self) -> str:
        """A short hash of all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


@cache
def hash_source() -> str:
    """Return the SHA-256 of the source of all engines and kernels."""
    digest = hashlib.sha256()
    for path in sorted(_ENGINES.rglob("*")):
        if path.suffix in (".py", ".cuh", ".hpp"):
            digest.update(f"{path.relative_to(_ENGINES).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _find_driver_version() -> str:
    """Return the version of the NVIDIA driver, "unknown" where nothing tells."""
    with contextlib.suppress(OSError):
        return one_line(Path("/proc/driver/nvidia/version").read_text().splitlines()[0])
    command = [shutil.which("nvidia-smi") or "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
        result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
        return result.stdout.splitlines()[0].strip()
    return "unknown"


def explain_unsound(engine: CudaEngine, info: DeviceInfo | None = None, folder: Path | None = None) -> str | None:
    """Return in one line why an engine must not be used on its device, None if it may be.

    The first call on a device runs the self-check. A result that says what is wrong, or that nothing is, is kept; an
    engine that could not run it, e.g. for lack of memory, is checked again by the next process.

    Args:
        engine: The engine.
        info: Its device; by default that of the GPU of the engine.
        folder: Folder that keeps results; by default in the user's cache. It is not used if others can write to it.
    """
    info = DeviceInfo.from_device(engine.device) if info is None else info
    if info not in _reasons:
        folder = user_cache_folder("cuda") if folder is None else folder
        path = folder / f"self-check-{info.digest}.json"
        _reasons[info] = _check_or_read(engine, info, path if is_private(folder) else None)
    return _reasons[info]


def _check_or_read(engine: CudaEngine, info: DeviceInfo, path: Path | None) -> str | None:
    is_known, problem = (False, None) if path is None else _read_result(path, info)
    if not is_known:
        _LOG.info("engine 'cuda': first use on %s, comparing it with other engines; this takes a minute", info.name)
        try:
            problem = run_self_check(engine)
        except Exception as error:  # an engine that never ran here may raise anything
            return f"cannot run its self-check on {info.name}: {type(error).__name__}: {one_line(error)}"
        with contextlib.suppress(OSError, DiskFullError):
            if path is not None:
                write_bytes(path, _encode_result(info, problem))
    return problem and f"failed its self-check on {info.name}: {problem}"


def run_self_check(engine: Engine, find_problem: Callable[..., str | None] = find_deviation) -> str | None:
    """Compare an engine with those of the CPU, in this process and on one thread; return the first deviation.

    Chains of layers are compared with the native engine, or with the torch engine where no compiler is; all other
    networks with the torch engine.

    Args:
        engine: The engine to check.
        find_problem: Compares two engines.
    """
    reference: Engine = TorchEngine(num_workers=1)
    chains = reference
    with contextlib.suppress(CompilerError):
        get_compiled_network(CHAIN_CASES[0].architecture, "relu", 0.0)
        chains = NativeEngine(num_threads=1)
    with _quiet_engine():
        return find_problem(engine, chains, CHAIN_CASES) or find_problem(engine, reference, OTHER_CASES)


@contextlib.contextmanager
def _quiet_engine() -> Iterator[None]:
    """Silence the lines of the engine about networks that nobody asked for."""
    logger = logging.getLogger(__package__)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _encode_result(info: DeviceInfo, problem: str | None) -> bytes:
    """Return the content of the file of a result, with its own checksum."""
    values: dict[str, Any] = {"format": _FORMAT, "device": asdict(info), "problem": problem}
    checksum = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return json.dumps({**values, "sha256": checksum}, indent=2).encode() + b"\n"


def check_result(path: Path) -> str:
    """Return "intact" or "damaged" for a file of the cache folder."""
    try:
        info = DeviceInfo(**json.loads(path.read_bytes())["device"])
    except (OSError, ValueError, LookupError, TypeError):
        return "damaged"
    return "intact" if _read_result(path, info)[0] else "damaged"


def _read_result(path: Path, info: DeviceInfo) -> tuple[bool, str | None]:
    """Return whether there is a sound result of this device, and the result."""
    try:
        content = path.read_bytes()
        problem = json.loads(content)["problem"]
        is_sound = content == _encode_result(info, problem)
    except (OSError, ValueError, LookupError, TypeError):
        return False, None
    return is_sound, problem if is_sound else None
