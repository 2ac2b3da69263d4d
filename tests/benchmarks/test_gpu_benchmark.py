"""The benchmark of a GPU, as far as a CPU allows: every part runs on tiny sizes, and none stops the others."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paths import ROOT

FOLDER = ROOT / "benchmarks"
PARTS = ["self-check", "pytest -m gpu", "mnist seed", "resnet-18", "auto-encoder"]
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("gpu")


def run_script(*options: object) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(FOLDER / "gpu.sh"), *map(str, options)]
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)


@pytest.mark.slow
def test_all_parts_run_on_tiny_sizes(tmp_path: Path) -> None:
    done = run_script("--dry-run", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    values = json.loads((tmp_path / "gpu.json").read_text())
    assert [part["name"] for part in values["parts"]] == PARTS and values["dry_run"]
    assert {part["status"] for part in values["parts"]} == {"ok"}
    results = {part["name"]: part["result"] for part in values["parts"]}
    assert results.pop("self-check") == {"path of cnn-s": "stacked"} and results.pop("pytest -m gpu") == {}
    assert all(float(number) > 0 for result in results.values() for number in result.values())
    for name in (*PARTS, "models/hour (40,000 images, 50 epochs)", "steps/s, functional loss", "tests collected"):
        assert name in done.stdout


@NO_GPU
def test_without_a_gpu_one_line_says_how_to_try_it(tmp_path: Path) -> None:
    done = run_script("--out", tmp_path / "new")
    assert (done.returncode, done.stdout) == (1, "") and not (tmp_path / "new").exists()
    assert done.stderr == "gpu.py: torch sees no CUDA GPU here; --dry-run shows that the benchmark runs\n"


def test_all_limits_together_are_less_than_ten_minutes(gpu: Any) -> None:
    parts = gpu.all_parts(is_dry=False)
    assert [part.name for part in parts] == PARTS and sum(part.limit for part in parts) < 600
    files = {Path(word).name for word in parts[1].command if word.endswith(".py")}
    assert {"test_cuda_engine.py", "test_cuda_kernel.py", "test_self_check.py"} <= files


def test_a_part_that_fails_or_hangs_is_told_and_ended(gpu: Any, tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    child = f"import time; time.sleep(6); open({str(mark)!r}, 'w')"
    programs = {
        "sound": (30, f"print('hello'); print('{gpu.RESULT}{{\"a\": 1}}')"),
        "broken": (30, "raise RuntimeError('CUDA error: no kernel image | here')"),
        "hanging": (
            3,
            f"import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', {child!r}])",
        ),
    }
    start = time.monotonic()
    outcomes = [
        gpu.run_part(gpu.Part(name=name, limit=limit, command=[sys.executable, "-c", program]))
        for name, (limit, program) in programs.items()
    ]
    assert [outcome.status for outcome in outcomes] == ["ok", "failed", "out of time"]
    assert outcomes[0].result == {"a": 1} and outcomes[0].last_lines == []
    assert outcomes[1].last_lines[-1] == "RuntimeError: CUDA error: no kernel image | here"
    assert outcomes[2].last_lines == ["begun"]
    time.sleep(max(0.0, start + 10 - time.monotonic()))
    assert not mark.exists(), "what it had started has ended too"


def test_the_table_has_a_line_for_every_number_and_every_failure(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sound = gpu.Outcome(name="sound", status="ok", seconds=1.4, result={"a": 1, "b": 2.5})
    gpu.print_table(
        [sound, dataclasses.replace(sound, name="broken", status="failed", result={}, last_lines=["x | y"])]
    )
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| sound | ok | 1 | a: 1 |",
        "|  |  |  | b: 2.5 |",
        "| broken | failed | 1 | x / y |",
    ]


def test_an_epoch_is_timed_with_and_without_metrics(gpu: Any) -> None:
    result = gpu.train_mnist(is_dry=True)
    names = ["s/epoch, 2 models", "s/epoch, 2 models, metrics", "s/epoch, 3 models", "s/epoch, 3 models, metrics"]
    assert [name for name in result if name.startswith("s/epoch")] == names
    assert all(result[name] > 0 for name in names)
