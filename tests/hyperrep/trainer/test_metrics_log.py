"""What is told while learning: lines that are the table's rows, events that TensorBoard reads, every epoch once."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.steps import StepProgress
from helpers.tiny_learning import recipe

from hyperrep import train
from hyperrep.trainer.checkpoints import CHECKPOINT_FILE, EVENTS, LINES, EpochMetrics, open_metrics_log
from hyperrep.trainer.loop import _CHECKPOINT_EVERY
from modelzoo_datasets.zoo import working_path

EPOCHS = _CHECKPOINT_EVERY + 2
RECIPE = recipe(epochs=EPOCHS, batch_size=14)
TAGS = {"reconstruction", "contrast", "behaviour", "mixed", "statistics", "validation_r2"}  # as files name them
LOSSES = {"reconstruction": 2.0, "contrastive": 3.0, "functional": 4.0, "mixed_functional": 5.0, "statistics": 6.0}
BLOCKED = """\
import sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorboard":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
from pathlib import Path
from hyperrep.trainer.checkpoints import EpochMetrics, open_metrics_log
with open_metrics_log(Path(sys.argv[1])) as record:
    record(EpochMetrics(epoch=1, reconstruction=2.0, functional=4.0, validation_r2=0.5))
"""


def lines(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / LINES).read_text().splitlines()]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (epoch, value) of every event, as TensorBoard reads them."""
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reading.EventAccumulator(str(folder / EVENTS), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def check(folder: Path) -> None:
    """The table, the lines and the events of a finished folder say the same, each epoch once."""
    with (folder / "metrics.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    assert lines(folder) == rows
    found = curves(folder)
    assert set(found) == TAGS
    for tag, events in found.items():
        assert events == [(row["epoch"], float(np.float32(row[tag]))) for row in rows], tag


def test_lines_and_events_are_the_rows_of_the_table_after_a_kill_too(tiny_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "hyperrep"

    def kill(what: str, done: int, total: int | None) -> None:
        if done == EPOCHS - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_dataset, RECIPE, out, progress=StepProgress(kill))
    work = working_path(out)
    assert (work / CHECKPOINT_FILE).is_file()
    told = lines(work)
    assert [line["epoch"] for line in told] == list(range(1, EPOCHS))  # flushed as they were told
    assert all(len(events) == EPOCHS - 1 for events in curves(work).values())
    train(tiny_dataset, RECIPE, out)
    assert lines(out)[:-1] == told
    check(out)


def test_what_an_earlier_recording_left_is_written_anew(tmp_path: Path) -> None:
    rows = [EpochMetrics(epoch=epoch, **LOSSES, validation_r2=0.5) for epoch in (1, 2)]
    for told in (rows, rows[:1]):
        with open_metrics_log(tmp_path) as record:
            for row in told:
                record(row)
    assert lines(tmp_path) == [rows[0].to_json()]
    assert curves(tmp_path) == {tag: [(1, rows[0].to_json()[tag])] for tag in TAGS}


def test_without_tensorboard_there_are_lines_and_no_events(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == [LINES]
    told = {"reconstruction": 2.0, "behaviour": 4.0, "validation_r2": 0.5}
    assert lines(tmp_path) == [{"epoch": 1, **dict.fromkeys(TAGS, 0.0), **told}]
