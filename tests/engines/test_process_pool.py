"""Worker processes: results come in order, and nothing hangs, however a worker or its consumer ends."""

import dataclasses
import multiprocessing
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import calls
from helpers.paths import TESTS
from helpers.processes import run
from helpers.training_by_hand import JOBS, TRAINING, trajectories

from modelzoo_datasets.engines import Job, TorchEngine
from modelzoo_datasets.engines.process_pool import run_in_processes
from modelzoo_datasets.errors import LostWorkerError, RecipeError
from modelzoo_datasets.images import Images, Split

KILLED = (
    "a worker process was killed, most often for lack of memory; run the same command again to resume, with fewer "
    "--threads"
)
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Assert that no worker outlives its test."""
    assert not multiprocessing.active_children()
    yield
    assert not multiprocessing.active_children()


def test_every_call_gives_its_results_in_their_order() -> None:
    base = torch.arange(5.0)
    found: dict[int, list[torch.Tensor]] = {}
    for index, result in run_in_processes(3, calls.multiples, (base,), [(factor,) for factor in range(10)]):
        found.setdefault(index, []).append(result)
    assert {i: torch.stack(parts).tolist() for i, parts in found.items()} == {
        factor: [(base * factor * times).tolist() for times in range(3)] for factor in range(10)
    }


def test_what_one_call_raises_ends_the_others_at_once() -> None:
    some = [("endless",), ("refuses",), ("endless",)]
    with pytest.raises(RecipeError) as caught:
        for _ in run_in_processes(3, calls.does, (), some):
            pass
    assert str(caught.value) == "there is no such thing"
    assert "calls.py" in "".join(caught.value.__notes__), "where it was raised is lost"


def test_an_error_that_cannot_be_sent_keeps_its_message() -> None:
    with pytest.raises(RuntimeError, match="^Picky: a pea in the bed$"):
        list(run_in_processes(2, calls.does, (), [("picky",), ("endless",)]))


def test_a_worker_that_ends_by_itself_is_an_error_with_its_status() -> None:
    with pytest.raises(LostWorkerError) as caught:
        list(run_in_processes(2, calls.does, (), [("exits",), ("endless",)]))
    assert str(caught.value) == (
        "a worker process ended by itself with exit status 3; its own message is above. A script that trains needs "
        "'if __name__ == \"__main__\":' before the code that it runs"
    )


def test_a_killed_worker_is_an_error_and_no_hang(few_images: Images) -> None:
    long = dataclasses.replace(TRAINING, epochs=1000)
    jobs = [Job(training=TRAINING, seed=0), *(Job(training=long, seed=s) for s in (1, 2))]
    states = TorchEngine(num_workers=2).train("cnn-s", few_images, jobs, metrics_on=())
    next(states)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    workers[0].kill()
    with pytest.raises(LostWorkerError) as caught:
        list(states)
    assert str(caught.value) == KILLED


def test_a_worker_killed_amid_a_message_is_an_error_and_no_hang(tmp_path: Path) -> None:
    results = run_in_processes(2, calls.writes, (tmp_path,), [(10_000_000,), (10_000_000,)])
    next(results)
    time.sleep(0.3)  # more than a pipe holds: both workers wait in the middle of a message
    for worker in multiprocessing.active_children():
        worker.kill()
    with pytest.raises(LostWorkerError) as caught:
        list(results)
    assert str(caught.value) == KILLED


def test_a_worker_does_not_run_ahead_of_who_takes_its_results(tmp_path: Path) -> None:
    results = run_in_processes(2, calls.writes, (tmp_path,), [(1_000_000,), (1_000_000,)])
    for _ in range(6):
        next(results)
    time.sleep(0.3)
    assert 6 <= len(list(tmp_path.iterdir())) <= 6 + 2
    results.close()  # type: ignore[attr-defined]


def test_who_stops_listening_does_not_wait_for_the_jobs_that_have_not_begun(few_images: Images) -> None:
    jobs = [Job(training=TRAINING, seed=s) for s in range(20_000)]
    states = TorchEngine(num_workers=2).train("cnn-s", few_images, jobs, metrics_on=())
    next(states)
    states.close()


def test_who_fails_while_listening_leaves_no_worker_behind() -> None:
    with pytest.raises(ZeroDivisionError):
        _ = [1 // number for _, number in run_in_processes(2, calls.does, (), [("endless",), ("endless",)])]


def test_without_shared_memory_every_worker_has_its_own_images(few_images: Images) -> None:
    splits = {name: Split(s.pixels.clone(), s.labels.clone()) for name, s in few_images.splits.items()}
    images, few_bytes = dataclasses.replace(few_images, splits=splits), 10_000
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (few_bytes, before[1]))  # as in a container with a small /dev/shm
    try:
        found = trajectories(TorchEngine(num_workers=2), images, JOBS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not splits["train"].pixels.is_shared()
    assert found == trajectories(TorchEngine(num_workers=1), images, JOBS)


LEAVES = """
from helpers.calls import does
from modelzoo_datasets.engines.process_pool import run_in_processes

if __name__ == "__main__":
    results = run_in_processes(2, does, (), [("endless",), ("endless",)])
    next(results)
    print("leaving")
"""


@pytest.mark.slow
def test_a_program_that_ends_amid_its_work_ends_in_silence(tmp_path: Path) -> None:
    script = tmp_path / "leaves.py"
    script.write_text(LEAVES)
    result = run(["python", script], env={**os.environ, "PYTHONPATH": str(TESTS)})
    assert (result.returncode, result.stdout, result.stderr) == (0, "leaving\n", "")
