"""Compilation: once for concurrent processes, never from an untrusted cache, and with clear errors."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.mounts import in_mounts_of_our_own

from modelzoo_datasets.engines import TorchEngine
from modelzoo_datasets.engines.native import compiler, native_engine
from modelzoo_datasets.engines.native.bindings import load_library
from modelzoo_datasets.engines.native.compiler import AVX2, AVX512, PORTABLE, compile_library, detect_instruction_set
from modelzoo_datasets.engines.native.native_engine import NativeEngine
from modelzoo_datasets.engines.native.native_trainer import get_compiled_network
from modelzoo_datasets.errors import CompilerError
from modelzoo_datasets.zoo import private_folder

SOURCE = 'extern "C" int answer() { return 42; }\n'


def forget() -> None:
    in_compiler = compiler._find_compiler, compiler._compiler_version, compiler._cache_folder
    for function in (*in_compiler, load_library, get_compiled_network):
        function.cache_clear()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an empty cache folder and clear the caches of the process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache" / "modelzoo-datasets" / "native"
    forget()


def build(source: str = SOURCE, depends_on: str = "") -> Path:
    return compile_library(source, depends_on, Path(), PORTABLE)


def test_a_library_is_compiled_once_and_again_where_anything_differs(cache: Path) -> None:
    first = build()
    assert first.parent == cache and cache.stat().st_mode & 0o777 == 0o700
    written = first.stat().st_mtime_ns
    assert build() == first and first.stat().st_mtime_ns == written
    others = build(SOURCE + "//"), build(depends_on="header"), compile_library(SOURCE, "", Path(), AVX2)
    assert len({first, *others}) == 4
    assert sorted(path.suffix for path in cache.iterdir()) == [".so"] * 4, "nothing half-made is left"


def test_processes_that_compile_at_the_same_time_do_not_meet(cache: Path) -> None:
    script = (
        "import ctypes, pathlib\n"
        "from modelzoo_datasets.engines.native.compiler import PORTABLE, compile_library\n"
        f"library = compile_library({SOURCE!r}, '', pathlib.Path(), PORTABLE)\n"
        "print(ctypes.CDLL(str(library)).answer())\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in running] == ["42"] * 3
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_can_write_to_is_not_trusted(
    cache: Path, mode: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(private_folder, "_is_own_group", lambda group: False)
    cache.mkdir(parents=True)
    cache.chmod(mode)
    library = build()
    assert library.parent != cache and not list(cache.iterdir())
    assert library.parent.stat().st_mode & 0o777 == 0o700
    assert [record.getMessage() for record in caplog.records] == [
        f"the cache folder {cache} is not used: other users can write to {cache}; run chmod go-w {cache}, or set "
        "another cache folder"
    ]


def damage(library: Path, kind: str) -> None:
    content = library.read_bytes()
    if kind == "truncated":
        library.write_bytes(content[: len(content) // 2])
    elif kind == "bit":
        library.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    else:
        library.write_bytes(b"")


@pytest.mark.parametrize("kind", ["truncated", "bit", "empty"])
def test_a_damaged_library_is_compiled_again_and_never_loaded(
    kind: str, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of a library would end the process with SIGBUS, with or without a line."""
    library = build()
    whole = library.read_bytes()
    damage(library, kind)
    assert build() == library and library.read_bytes() == whole
    assert [record.getMessage() for record in caplog.records] == [
        f"the compiled kernel {library} is damaged; it is compiled again"
    ]


def test_on_a_disk_that_damages_every_library_the_torch_engine_serves(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    native_engine._warnings.clear()
    monkeypatch.setattr(compiler, "file_sha256", lambda path: "0" * 64 if path.name == "network.so" else "1" * 64)
    assert isinstance(NativeEngine(num_threads=1).resolve("cnn-s"), TorchEngine)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("cnn-s is trained by the torch engine instead of the native one: the compiled kernel ")
    assert line.endswith(f"is damaged again; is the disk of {cache} sound?")


def test_where_no_program_may_be_run_from_the_cache_the_torch_engine_serves(tmp_path: Path) -> None:
    code = (
        "from modelzoo_datasets import get_engine\nprint(get_engine('native', num_threads=1).resolve('cnn-s').name)\n"
    )
    result = in_mounts_of_our_own(
        f"mkdir {tmp_path}/cache && mount -t tmpfs -o noexec tmpfs {tmp_path}/cache || exit 9\n"
        f'XDG_CACHE_HOME={tmp_path}/cache {sys.executable} -c "{code}"'
    )
    assert result.stdout == "torch\n", result.stderr
    assert "cnn-s is trained by the torch engine instead of the native one: the compiled kernel cannot be loaded: " in (
        result.stderr
    )
    assert result.stderr.rstrip().endswith("; set XDG_CACHE_HOME to another folder")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_not_trusted(cache: Path) -> None:
    cache.mkdir(parents=True, mode=0o700)
    os.chown(cache, 12345, -1)
    assert build().parent != cache and not list(cache.iterdir())


def test_a_cache_that_cannot_be_made_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert build().is_file()


def test_code_that_does_not_compile_is_one_line(cache: Path) -> None:
    with pytest.raises(CompilerError, match=r"cannot compile the kernel: .*error.*nonsense") as caught:
        build("nonsense;")
    assert "\n" not in str(caught.value) and not list(cache.iterdir())


def test_without_a_compiler_the_torch_engine_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    native_engine._warnings.clear()
    assert isinstance(NativeEngine(num_threads=1).resolve("cnn-s"), TorchEngine)
    said = "CXX is 'no-such-compiler', which is not installed"
    assert [record.getMessage() for record in caplog.records] == [
        f"cnn-s is trained by the torch engine instead of the native one: no C++ compiler: {said}"
    ]
    forget()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompilerError) as caught:
        build()
    assert str(caught.value) == "no C++ compiler: install one of c++, g++, clang++"


def test_a_compiler_that_does_not_run_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken-c++"
    broken.write_text("#!/bin/sh\necho out of order >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(CompilerError, match=r"broken-c\+\+ --version failed: out of order"):
        build()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx2", "fma", "bmi2", "avx512f", "avx512vl", "avx512dq", "avx512bw"}, AVX512),
        ({"avx2", "fma", "bmi2", "avx512f"}, AVX2),
        ({"avx2"}, PORTABLE),
        (set(), PORTABLE),
    ],
    ids=["avx512", "avx2", "no-fma", "nothing"],
)
def test_instructions_are_what_the_processor_has(
    flags: set[str], expected: compiler.InstructionSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(compiler, "_processor_flags", lambda: flags)
    detect_instruction_set.cache_clear()
    try:
        assert detect_instruction_set() is expected
    finally:
        detect_instruction_set.cache_clear()


def test_other_processors_get_the_portable_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.platform, "machine", lambda: "arm64")
    detect_instruction_set.cache_clear()
    try:
        assert detect_instruction_set() is PORTABLE
    finally:
        detect_instruction_set.cache_clear()
