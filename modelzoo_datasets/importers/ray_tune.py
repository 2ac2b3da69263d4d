"""Trial folders of Ray Tune: one per model, with parameters, results and a checkpoint per epoch.

<zoo>/<trial>/params.json                      hyper-parameters
<zoo>/<trial>/result.json  progress.csv        a JSON object, or a row, per epoch; one of the files is enough
<zoo>/<trial>/checkpoint_000050/checkpoints    state dict (older: checkpoint_50); optimizer beside it is not needed
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._util import natural_key
from ..errors import FormatError
from ..progress import Progress
from ..zoo import check_memory
from .archives import Source
from .base import Skipped, SkipReport

_CHECKPOINT = re.compile(r"(?:(?P<trial>.+)/)?checkpoint_(?P<epoch>\d{1,6})/checkpoints")
_MAX_PARAMS, _MAX_RESULTS = 1_000_000, 64_000_000  # bytes of the descriptions of a trial
_BYTES_PER_ROW, _BYTES_PER_PARAM = 1_000, 300  # in memory
_FILLER = -999  # in the published CNN zoos: not measured
_FRACTIONS = ("train_acc", "val_acc", "test_acc")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ResultKeys:
    """The keys of a result that an import needs; results hold many more."""

    epoch: str  # number of the epoch
    metrics: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The content of one trial folder."""

    path: str
    params: Mapping[str, Any]
    rows: Mapping[int, Row]  # number of the epoch -> the requested keys of its result
    checkpoints: Mapping[int, str]  # number of the epoch -> path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.rpartition("/")[2]


def read_trials(
    source: Source, inside: str | None, keys: ResultKeys, report: SkipReport, progress: Progress
) -> tuple[str, list[Trial]]:
    """Find and describe every trial of a source.

    Args:
        source: The originals.
        inside: Folder of the zoo in a source that holds several.
        keys: The keys that are read of a result.
        report: Counts models and metrics that are skipped.
        progress: Display of the trials.

    Returns:
        Path of the zoo in its source, and its trials in the order of their names, numbers as numbers.

    Raises:
        FormatError: There are no trials, or those of several zoos, or more results than such a source can hold.
    """
    checkpoints = _list_checkpoints(source)
    with_params = {path.rpartition("/")[0] for path in source.sizes if path.rpartition("/")[2] == "params.json"}
    paths = sorted({*checkpoints, *with_params} - {""}, key=lambda path: natural_key(f"/{path}"))
    if not paths:
        one = "it is a single trial; name the folder above it" if "" in checkpoints else "no checkpoint_*/checkpoints"
        raise FormatError(f"{source.name} holds no trial folders: {one}; is --format right?")
    root = _select_root(source.name, {path.rpartition("/")[0] for path in paths}, inside)
    trials, num_bytes = list[Trial](), 0
    below = [path for path in paths if path.rpartition("/")[0] == root]
    with progress.start(f"describing {source.name}", len(below)) as task:
        for path in below:
            try:
                trials.append(_read_trial(source, path, checkpoints.get(path, {}), keys, report))
                num_bytes += _BYTES_PER_ROW * len(trials[-1].rows) + _BYTES_PER_PARAM * len(trials[-1].params)
                check_memory(num_bytes, source.nbytes, source.name)
            except Skipped as reason:
                report.add(f"model whose {reason}", path)
            task.update()
    return root, trials


def _list_checkpoints(source: Source) -> dict[str, dict[int, str]]:
    """Return trial -> epoch -> path; of two names of an epoch, with and without padding, the shorter one."""
    result: dict[str, dict[int, str]] = {}
    for path in sorted(source.sizes, key=len, reverse=True):
        if match := _CHECKPOINT.fullmatch(path):
            result.setdefault(match["trial"] or "", {})[int(match["epoch"])] = path
    return result


def _select_root(name: str, roots: set[str], inside: str | None) -> str:
    if inside is not None:
        if (root := inside.strip("/")) not in roots:
            raise FormatError(f"{name} has no trial folders in {inside!r}; it has some in {', '.join(sorted(roots))}")
        return root
    if len(roots) > 1:
        raise FormatError(f"{name} holds {len(roots)} zoos; name one with --inside: {', '.join(sorted(roots))}")
    return next(iter(roots))


def _read_trial(
    source: Source, path: str, checkpoints: Mapping[int, str], keys: ResultKeys, report: SkipReport
) -> Trial:
    if not checkpoints:
        raise Skipped("checkpoints are missing")
    params, config, rows = _read_params(source, path), None, {}
    for row in _read_results(source, path, report):
        number = parse_number(row.get(keys.epoch))
        if number is not None and number.is_integer():
            rows[int(number)] = {key: parse_number(row[key]) for key in keys.metrics if key in row}
        config = row["config"] if isinstance(row.get("config"), dict) else config
    params = config if params is None else params  # a result has a copy
    if params is None:
        raise Skipped("params.json is missing or damaged")
    return Trial(path=path, params=params, rows=rows, checkpoints=dict(sorted(checkpoints.items())))


def _read_params(source: Source, path: str) -> Mapping[str, Any] | None:
    """Read params.json; None where it is missing or damaged."""
    try:
        params = json.loads(_read_text(source, f"{path}/params.json", _MAX_PARAMS))
    except (Skipped, ValueError, RecursionError):
        return None
    return params if isinstance(params, dict) else None


def _read_results(source: Source, path: str, report: SkipReport) -> Iterator[Row]:
    """Yield the rows of result.json, or else of progress.csv; a damaged row is counted."""
    name = "result.json" if f"{path}/result.json" in source.sizes else "progress.csv"
    try:
        text = _read_text(source, f"{path}/{name}", _MAX_RESULTS)
    except Skipped:
        report.add("metrics of a model, since result.json and progress.csv are missing or damaged", path)
        return
    if name == "progress.csv":
        yield from _read_csv_rows(text, path, report)
        return
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield row
        elif line.strip():
            report.add("metrics of a state, since its line in result.json is damaged", path)


def _read_csv_rows(text: str, path: str, report: SkipReport) -> Iterator[Row]:
    """Yield the rows of a CSV. A short row has no value for the last names, a long one values without names."""
    reader = csv.reader(text.splitlines())
    try:
        names = next(reader, [])
        for row in reader:
            yield dict(zip(names, row, strict=False))
    except csv.Error:
        report.add("metrics of a model, since progress.csv is damaged from some row on", path)


def _read_text(source: Source, path: str, max_size: int) -> str:
    if source.sizes.get(path, max_size + 1) > max_size:
        raise Skipped("is missing, or larger than such a file can be")
    return source.read(path).decode(errors="replace")


def parse_number(value: Any) -> float | None:
    """Parse a finite number from JSON or CSV; None for anything else, and for the filler -999 of the originals."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if isinstance(value, bool) or not math.isfinite(number) or number == _FILLER else number


def require_value(params: Mapping[str, Any], key: str) -> Any:
    """Return a parameter that must be recorded; raises Skipped."""
    if params.get(key) is None:
        raise Skipped(f"there is no {key}")
    return params[key]


def require_number(params: Mapping[str, Any], key: str) -> float:
    """Return a parameter that must be recorded and be a number; raises Skipped."""
    number = parse_number(require_value(params, key))
    if number is None:
        raise Skipped(f"{key} is {params[key]!r}, which is not a number")
    return number


def read_metrics(row: Row, names: Mapping[str, str], *, percent: bool = False) -> dict[str, float]:
    """Read the metrics of a state; an accuracy below 0 or above 1 counts as not recorded.

    Args:
        row: A result.
        names: Metric -> its key in the row.
        percent: Accuracies in the row are in percent, not fractions.

    Returns:
        Metric -> number, for the metrics that were recorded; accuracies as fractions.
    """
    result = {}
    for name, key in names.items():
        value = parse_number(row.get(key))
        if value is not None and name in _FRACTIONS:
            value = value / 100 if percent else value
            value = value if 0 <= value <= 1 else None
        if value is not None:
            result[name] = value
    return result
