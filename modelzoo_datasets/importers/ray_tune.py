"""Trial folders, as Ray Tune leaves them: one per model, with parameters, results and a checkpoint per epoch.

<zoo>/<trial>/params.json                      hyper-parameters
<zoo>/<trial>/result.json  progress.csv        one JSON object, or one row, per epoch: either is enough
<zoo>/<trial>/checkpoint_000050/checkpoints    state dict (older: checkpoint_50); optimizer beside it is not needed
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._util import natural_key
from ..errors import FormatError
from ..progress import Progress
from .archives import Source
from .skip_report import Skipped, SkipReport

_CHECKPOINT = re.compile(r"(?:(?P<trial>.+)/)?checkpoint_(?P<epoch>\d{1,6})/checkpoints")
_LARGEST_DESCRIPTION = 64_000_000  # bytes
_FILLER = -999  # what the published CNN zoos have for what was not measured
_FRACTIONS = ("train_acc", "val_acc", "test_acc")

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial: its folder and what lies in it."""

    path: str
    params: Mapping[str, Any]
    rows: Mapping[int, Row]  # by number of epochs trained
    checkpoints: Mapping[int, str]  # by the number in their names: paths

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.rpartition("/")[2]


@dataclass
class Trials:
    """All trials of one zoo in the order of their names, numbers as numbers."""

    root: str  # path of the zoo within its source
    trials: list[Trial] = field(default_factory=list)


def read_trials(source: Source, inside: str | None, epoch_key: str, refusals: SkipReport, progress: Progress) -> Trials:
    """Find and describe every trial of a source.

    Args:
        inside: the folder of the zoo, where the source holds several.
        epoch_key: the name in a result for the number of the epoch.

    Raises:
        FormatError: there are none, or those of several zoos.
    """
    checkpoints = _checkpoints(source)
    described = {path.rpartition("/")[0] for path in source.sizes if path.rpartition("/")[2] == "params.json"}
    paths = sorted({*checkpoints, *described} - {""}, key=lambda path: natural_key(f"/{path}"))
    if not paths:
        one = "it is a single trial; name the folder above it" if "" in checkpoints else "no checkpoint_*/checkpoints"
        raise FormatError(f"{source.name} holds no trial folders: {one}; is --format right?")
    root = _one_root(source.name, {path.rpartition("/")[0] for path in paths}, inside)
    found = Trials(root)
    below = [path for path in paths if path.rpartition("/")[0] == root]
    with progress.start(f"describing {source.name}", len(below)) as task:
        for path in below:
            try:
                found.trials.append(_read_trial(source, path, checkpoints.get(path, {}), epoch_key, refusals))
            except Skipped as reason:
                refusals.add(f"model whose {reason}", path)
            task.update()
    return found


def _checkpoints(source: Source) -> dict[str, dict[int, str]]:
    """Trial -> epoch -> path; where an epoch is there twice, padded and not, the name without padding."""
    found: dict[str, dict[int, str]] = {}
    for path in source.sizes:
        if match := _CHECKPOINT.fullmatch(path):
            epochs = found.setdefault(match["trial"] or "", {})
            known = epochs.get(int(match["epoch"]))
            if known is None or len(path) < len(known):
                epochs[int(match["epoch"])] = path
    return found


def _one_root(name: str, roots: set[str], inside: str | None) -> str:
    if inside is not None:
        if (root := inside.strip("/")) not in roots:
            raise FormatError(f"{name} has no trial folders in {inside!r}; it has some in {', '.join(sorted(roots))}")
        return root
    if len(roots) > 1:
        raise FormatError(f"{name} holds {len(roots)} zoos; name one with --inside: {', '.join(sorted(roots))}")
    return next(iter(roots))


def _read_trial(
    source: Source, path: str, checkpoints: Mapping[int, str], epoch_key: str, refusals: SkipReport
) -> Trial:
    if not checkpoints:
        raise Skipped("checkpoints are missing")
    rows = list(_results(source, path, refusals))
    params = _params(source, path, rows)
    numbered = {epoch: row for row in rows if (epoch := _whole(row.get(epoch_key))) is not None}
    return Trial(path=path, params=params, rows=numbered, checkpoints=dict(sorted(checkpoints.items())))


def _params(source: Source, path: str, rows: list[Row]) -> Mapping[str, Any]:
    """params.json, or else the copy that every result has."""
    try:
        params = json.loads(_text(source, f"{path}/params.json"))
    except (Skipped, ValueError):
        params = next((row["config"] for row in reversed(rows) if isinstance(row.get("config"), dict)), None)
    if not isinstance(params, dict):
        raise Skipped("params.json is missing or damaged")
    return params


def _results(source: Source, path: str, refusals: SkipReport) -> Iterator[Row]:
    """Rows of result.json, of progress.csv where that is not there; a row that is cut off is counted and left out."""
    name = "result.json" if f"{path}/result.json" in source.sizes else "progress.csv"
    try:
        text = _text(source, f"{path}/{name}")
    except Skipped:
        refusals.add("metrics of a model, since result.json and progress.csv are missing or damaged", path)
        return
    if name == "progress.csv":
        yield from csv.DictReader(text.splitlines())
        return
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            yield row
        elif line.strip():
            refusals.add("metrics of a state, since its line in result.json is damaged", path)


def _text(source: Source, path: str) -> str:
    if source.sizes.get(path, _LARGEST_DESCRIPTION + 1) > _LARGEST_DESCRIPTION:
        raise Skipped("is missing, or larger than any that there should be")
    return source.read(path).decode(errors="replace")


def _whole(value: Any) -> int | None:
    number = number_of(value)
    return int(number) if number is not None and number == int(number) else None


def number_of(value: Any) -> float | None:
    """A finite number, from JSON or CSV; None for anything else, and for the originals' filler -999."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if isinstance(value, bool) or not math.isfinite(number) or number == _FILLER else number


def known(params: Mapping[str, Any], key: str) -> Any:
    """A parameter that must be recorded; raises Refused."""
    if params.get(key) is None:
        raise Skipped(f"there is no {key}")
    return params[key]


def known_number(params: Mapping[str, Any], key: str) -> float:
    """A parameter that must be recorded, and be a number; raises Refused."""
    number = number_of(known(params, key))
    if number is None:
        raise Skipped(f"{key} is {params[key]!r}, which is no number")
    return number


def metrics_of(row: Row, names: Mapping[str, str], *, percent: bool = False) -> dict[str, float]:
    """What a row says of a state: our name -> number, by {our name: its name}; accuracies as fractions.

    An accuracy that is none, below 0 or above 1, counts as not recorded.
    """
    found = {}
    for ours, theirs in names.items():
        value = number_of(row.get(theirs))
        if value is not None and ours in _FRACTIONS:
            value = value / 100 if percent else value
            value = value if 0 <= value <= 1 else None
        if value is not None:
            found[ours] = value
    return found
