"""What the Hub and its dataset viewer make of a dataset folder, by their documented limits: nothing is sent."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from .._util import is_config_name_on_hub, one_line
from ..errors import FormatError
from .check import Check
from .viewer_limits import Limits, check_columns, check_rows, check_scan

_CARD = "README.md"
_SPLIT = re.compile(r"\w+(\.\w+)*")
LIMITS = Limits()


@dataclass
class _Found:
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: int = 0


def check_viewer(path: Path, repo_id: str | None = None, limits: Limits = LIMITS) -> Check:
    """Whether the viewer will show every config of a folder, and `datasets` load it by the name of its repo.

    Args:
        repo_id: ORG/NAME that the folder is to be pushed to, if known.
    """
    found = _Found()
    found.problems += [*_folder(path, limits), *_shadow(repo_id)]
    try:
        header = _header(path / _CARD)
    except FormatError as error:
        found.problems.append(str(error))
        return Check("viewer", 0, found.problems)
    if header.get("viewer") is False:
        found.problems.append(f"{_CARD} says `viewer: false`, which turns the viewer off; remove it")
    entries = header["configs"]
    found.problems += [*_names(entries, limits), *_formats(entries)]
    for entry in entries:
        _config(path, entry, limits, found)
    return Check("viewer", found.files, found.problems, found.notes)


def _folder(path: Path, limits: Limits) -> Iterator[str]:
    """Rules for all files, whatever they hold."""
    places: Counter[str] = Counter()
    files = 0
    for file in path.rglob("*"):
        parts = file.relative_to(path).parts
        if any(part.startswith(".") for part in parts):
            continue
        places["/".join(parts[:-1]) or "the root"] += 1
        files += file.is_file()
    for name in sorted(script.name for script in path.glob("*.py")):
        yield f"{name} lies in the root: `datasets` refuses a repo with a loading script of its name; remove the file"
    for place, entries in sorted(places.items()):
        if entries > limits.folder_entries:
            yield f"{place} has {entries:,} entries, the Hub takes {limits.folder_entries:,} in a folder; write fewer"
    if files > limits.files:
        yield f"there are {files:,} files, a repo has {limits.files:,} at most; write larger ones"


def _shadow(repo_id: str | None) -> Iterator[str]:
    if repo_id is not None and Path(repo_id).exists():
        yield (
            f"the folder {repo_id} hides the repo of that name from `datasets` in the current folder; rename it, or "
            f"load hf://datasets/{repo_id}"
        )


def _header(card: Path) -> dict[str, Any]:
    """The YAML of a card, with configs that can be looked into; raises FormatError."""
    from huggingface_hub import metadata_load  # here, because it takes most of a second to import

    try:
        header = metadata_load(card)
    except (OSError, ValueError, yaml.YAMLError) as error:
        what = one_line(error)
        raise FormatError(f"{card.name} has no YAML header that can be read ({what}); write it anew") from error
    configs = header.get("configs") if isinstance(header, dict) else None
    if not isinstance(header, dict) or not isinstance(configs, list) or not configs or not all(map(_is_entry, configs)):
        raise FormatError(f"{card.name} has no YAML header with `configs` and their `data_files`; write it anew")
    return header


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("config_name"), str):
        return False
    parts = entry.get("data_files")
    keys = ("split", "path")
    return isinstance(parts, list) and all(
        isinstance(part, dict) and all(isinstance(part.get(key), str) for key in keys) for part in parts
    )


def _names(entries: Sequence[Mapping[str, Any]], limits: Limits) -> Iterator[str]:
    """Rules for the names and numbers of configs and splits."""
    names = Counter(entry["config_name"] for entry in entries)
    if len(entries) > limits.configs:
        yield f"there are {len(entries):,} configs, the viewer takes {limits.configs:,}; publish them as several repos"
    for name, times in names.items():
        if not is_config_name_on_hub(name):
            yield (
                f"the Hub refuses {name!r} as the name of a config: none of < > : / \\ | ? *, and not 'data'; name it "
                "otherwise"
            )
        if times > 1:
            yield f"config {name!r} is named {times} times; name each once"
    if (defaults := sum(bool(entry.get("default")) for entry in entries)) > 1:
        yield f"{defaults} configs are marked `default: true`; mark one"
    for entry in entries:
        splits = [part["split"] for part in entry["data_files"]]
        for split in splits:
            if not _SPLIT.fullmatch(split):
                yield (
                    f"config {entry['config_name']!r}: {split!r} is no name of a split: letters, digits, _ and dots "
                    "between them; name it otherwise"
                )
        if len(splits) > limits.splits:
            name = entry["config_name"]
            yield f"config {name!r} has {len(splits)} splits, the viewer takes {limits.splits}; merge some"


def _formats(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The files of the first config say how all are read."""
    for place, entry in enumerate(entries):
        others = [part["path"] for part in entry["data_files"] if not part["path"].endswith(".parquet")]
        if others:
            which = "first config" if place == 0 else "config"
            yield f"the {which} {entry['config_name']!r} must be of Parquet files, it has {others[0]}; convert them"


def _config(path: Path, entry: Mapping[str, Any], limits: Limits, found: _Found) -> None:
    """Rules for the files of one config."""
    name, first = entry["config_name"], None
    shown: list[str] = []  # of the first page of each split, which are much alike
    for pattern in [part["path"] for part in entry["data_files"] if part["path"].endswith(".parquet")]:
        try:
            files = _matching(path, pattern)
        except FormatError as error:
            found.problems.append(f"config {name!r}: {error}; build the dataset again")
            continue
        for number, file in enumerate(files):
            where = file.relative_to(path).as_posix()
            found.files += 1
            try:
                schema = pq.read_schema(file)
                if first is None:
                    first = (where, schema)
                    found.problems += check_columns(schema, where, limits)
                elif difference := _difference(schema, first[1]):
                    found.problems.append(f"{where} is not like {first[0]}: {difference}; give all files one schema")
                found.problems += check_scan(file, where, limits)
                problems, notes = check_rows(file, where, limits) if number == 0 else ([], [])
            except (OSError, pa.ArrowException, FormatError) as error:
                found.problems.append(f"cannot read {where}: {one_line(error)}; build the dataset again")
                continue
            found.problems += problems
            shown += notes
            if (size := file.stat().st_size) > limits.shard:
                found.notes.append(f"{where} has {size:,} bytes, {limits.shard:,} at most are recommended")
    found.notes += shown[:1]


def _matching(path: Path, pattern: str) -> list[Path]:
    """The files of a folder that a pattern of its card means; raises FormatError where it means none."""
    if pattern.startswith("/") or ".." in pattern.split("/"):
        raise FormatError(f"{pattern} leads out of the folder")
    try:
        files = sorted(path.glob(pattern))
    except ValueError as error:
        raise FormatError(f"{pattern} is no pattern of files ({error})") from error
    if not files:
        raise FormatError(f"no file matches {pattern}")
    return files


def _difference(schema: pa.Schema, first: pa.Schema) -> str | None:
    """How the columns of a file differ from those of the first one of its config."""
    for one in first:
        if one.name not in schema.names:
            return f"it has no column {one.name!r}"
        if schema.field(one.name).type != one.type:
            return f"column {one.name!r} is {schema.field(one.name).type}, not {one.type}"
    extra = [name for name in schema.names if name not in first.names]
    return f"column {extra[0]!r} is only here" if extra else None
