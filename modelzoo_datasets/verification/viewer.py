"""Checks that the Hub and its dataset viewer can show a dataset folder, by their documented limits; nothing is sent.

The limits are those of the source of huggingface/dataset-viewer in August 2026. The viewer shows pages of 100 rows: of
a row group with a page index it reads only the pages that hold these rows, of others all bytes, and at most 300 MB. The
first page of rows has at most 1 MB as JSON; the viewer first leaves out rows, down to 10, and then truncates cells.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .._util import is_config_name_on_hub, one_line
from ..errors import FormatError
from ..hub import read_card_header
from ..zoo import Footer, TableFile, open_parquet, read_footers
from .base import Check
from .dataset_target import REMEDY, describe_difference

_SPLIT = re.compile(r"\w+(\.\w+)*")


@dataclass(frozen=True)
class Limits:
    """The limits of the Hub and its viewer; sizes in bytes."""

    scan: int = 300_000_000  # read for one page of rows
    page_rows: int = 100
    response: int = 1_000_000  # the first page of rows, as JSON
    min_rows: int = 10  # shown on the first page, even if they are larger
    row: int = 2_000_000  # one row, as JSON
    columns: int = 1_000
    column_name: int = 500  # characters
    shard: int = 500_000_000  # recommended
    configs: int = 4_000
    splits: int = 30  # per config
    folder_entries: int = 10_000
    files: int = 100_000


LIMITS = Limits()


def check_viewer(path: Path, repo_id: str | None = None, limits: Limits = LIMITS) -> Check:
    """Check that the viewer can show every config of a folder, and that `datasets` can load it by its repo.

    Args:
        path: the dataset folder.
        repo_id: ORG/NAME of the repo that the folder will be pushed to, if known.
        limits: the limits to check.
    """
    problems = [*_check_folder(path, limits), *_check_repo(repo_id)]
    try:
        header = read_card_header(path / "README.md")
    except FormatError as error:
        return Check("viewer", 0, [*problems, str(error)])
    if header.get("viewer") is False:
        problems.append("README.md says `viewer: false`, which turns the viewer off; remove it")
    problems += _check_configs(header["configs"], limits)
    footers = read_footers(path)
    checks = [_check_files(path, entry, footers, limits) for entry in header["configs"]]
    problems += [line for check in checks for line in check.problems]
    return Check(
        "viewer", sum(check.n for check in checks), problems, [line for check in checks for line in check.notes]
    )


def _check_folder(path: Path, limits: Limits) -> Iterator[str]:
    visible = [
        file for file in path.rglob("*") if not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    for name in sorted(script.name for script in path.glob("*.py")):
        yield f"{name} lies in the root: `datasets` refuses a repo with a loading script of its name; remove the file"
    for folder, count in sorted(Counter(file.relative_to(path).parent.as_posix() for file in visible).items()):
        if count > limits.folder_entries:
            name = "the root" if folder == "." else folder
            yield f"{name} has {count:,} entries, the Hub takes {limits.folder_entries:,} in a folder; write fewer"
    if (count := sum(file.is_file() for file in visible)) > limits.files:
        yield f"there are {count:,} files, a repo has {limits.files:,} at most; write larger ones"


def _check_repo(repo_id: str | None) -> Iterator[str]:
    if repo_id is not None and Path(repo_id).exists():
        yield (
            f"the folder {repo_id} hides the repo of that name from `datasets` in the current folder; rename it, or "
            f"load hf://datasets/{repo_id}"
        )


def _check_configs(entries: Sequence[Mapping[str, Any]], limits: Limits) -> Iterator[str]:
    if len(entries) > limits.configs:
        yield f"there are {len(entries):,} configs, the viewer takes {limits.configs:,}; publish them as several repos"
    for name, count in Counter(entry["config_name"] for entry in entries).items():
        if not is_config_name_on_hub(name):
            yield (
                f"the Hub refuses the config name {name!r}: it must contain none of < > : / \\ | ? * and must not be "
                "'data'; rename the config"
            )
        if count > 1:
            yield f"config {name!r} is listed {count} times; list it once"
    if (defaults := sum(bool(entry.get("default")) for entry in entries)) > 1:
        yield f"{defaults} configs are marked `default: true`; mark one"
    for place, entry in enumerate(entries):
        name, parts = entry["config_name"], entry["data_files"]
        for split in (part["split"] for part in parts if not _SPLIT.fullmatch(part["split"])):
            yield (
                f"config {name!r}: the split name {split!r} must consist of letters, digits and _, with dots between "
                "them; rename the split"
            )
        if len(parts) > limits.splits:
            yield f"config {name!r} has {len(parts)} splits, the viewer takes {limits.splits}; merge some"
        if others := [part["path"] for part in parts if not part["path"].endswith(".parquet")]:
            which = "first config" if place == 0 else "config"  # the first one decides how the viewer reads all
            yield f"the {which} {name!r} must consist of Parquet files, it has {others[0]}; convert them"


def _check_files(path: Path, entry: Mapping[str, Any], footers: Mapping[str, Footer], limits: Limits) -> Check:
    """Check the Parquet files of a config."""
    problems, notes, count = list[str](), list[str](), 0
    first, shown = None, list[str]()  # the first file and its schema; notes on the first pages, which are much alike
    for pattern in [part["path"] for part in entry["data_files"] if part["path"].endswith(".parquet")]:
        try:
            files = _find_files(path, pattern)
        except FormatError as error:
            problems.append(f"config {entry['config_name']!r}: {error}; {REMEDY}")
            continue
        for file in files:
            where, count = file.relative_to(path).as_posix(), count + 1
            try:
                with open_parquet(file, footers.get(where)) as parquet:
                    first = first or (where, parquet.schema)
                    problems += _check_file(parquet, where, first, where in footers, limits)
                    shows_page = file == files[0]
                    page_problems, page_notes = _check_first_page(parquet, where, limits) if shows_page else ([], [])
            except (OSError, pa.ArrowException, FormatError) as error:
                problems.append(f"cannot read {where}: {one_line(error)}; {REMEDY}")
                continue
            problems += page_problems
            shown += page_notes
            if (size := file.stat().st_size) > limits.shard:
                notes.append(f"{where} has {size:,} bytes, {limits.shard:,} at most are recommended")
    return Check("files", count, problems, notes + shown[:1])


def _find_files(path: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that match a pattern of its card; raises FormatError if none does."""
    if pattern.startswith("/") or ".." in pattern.split("/"):
        raise FormatError(f"{pattern} leads out of the folder")
    try:
        files = sorted(path.glob(pattern))
    except ValueError as error:
        raise FormatError(f"{pattern} is no pattern of files ({error})") from error
    if not files:
        raise FormatError(f"no file matches {pattern}")
    return files


def _check_file(
    file: TableFile, where: str, first: tuple[str, pa.Schema], has_checksum: bool, limits: Limits
) -> Iterator[str]:
    """Find problems of a file; those of its columns only if it is the first one, because all have the same."""
    metadata = file.metadata
    names = file.schema.names
    if difference := describe_difference(file.schema, first[1]):
        yield f"{where} is not like {first[0]}: {difference}; give all files one schema"
    if where == first[0] and len(names) > limits.columns:
        yield f"{where} has {len(names):,} columns, the viewer shows {limits.columns:,} at most; leave some out"
    for name in (name for name in names if where == first[0] and len(name) > limits.column_name):
        yield (
            f"{where}: the name of column {name[:20]}… has {len(name)} characters, the viewer takes "
            f"{limits.column_name} at most; shorten it"
        )
    for number in range(metadata.num_row_groups):
        nbytes, reason = _estimate_page(metadata.row_group(number), has_checksum, limits)
        if nbytes > limits.scan:
            yield (
                f"{where}: {limits.page_rows} rows of row group {number} take {nbytes:,.0f} bytes ({reason}), the "
                f"viewer reads {limits.scan:,} at most; write smaller row groups"
            )


def _estimate_page(group: pq.RowGroupMetaData, has_checksum: bool, limits: Limits) -> tuple[float, str]:
    """Return the bytes that the viewer reads for a page of rows, and the reason.

    pyarrow does not show the sizes of pages, so with a page index a page of rows has its share of the row group. The
    column chunks of a footer without checksum are not looked at, because damage would end the process.
    """
    if not has_checksum:
        return group.total_byte_size, "decoded, because the dataset lists no checksum of its footer"
    chunks = [group.column(i) for i in range(group.num_columns)]
    nbytes = sum(chunk.total_compressed_size for chunk in chunks)
    if all(chunk.has_offset_index for chunk in chunks):
        return nbytes * min(1, limits.page_rows / max(1, group.num_rows)), "on average"
    return nbytes, "there is no page index"


def measure_rows(file: TableFile, count: int) -> list[int]:
    """Return the size in bytes of each of the first rows of a file as JSON, as the viewer decodes them."""
    table = file.read(max_rows=count)
    rows = (table.slice(i, 1).to_pylist()[0] for i in range(len(table)))  # one at a time, because texts may be long
    return [len(json.dumps(row, default=str).encode()) for row in rows]


def _check_first_page(file: TableFile, where: str, limits: Limits) -> tuple[list[str], list[str]]:
    """Return (problems, notes): rows that are too large to be shown, and how much of the first page is shown."""
    sizes = measure_rows(file, limits.min_rows)
    if not sizes:
        return [], []
    if (largest := max(sizes)) > limits.row:
        limit = f"the viewer shows {limits.row:,} at most; keep weights of this size in files"
        return [f"{where}: a row has {largest:,} bytes as JSON, {limit}"], []
    if sum(sizes) > limits.response:
        return [], [f"{where}: cells will be truncated: {len(sizes)} rows have {sum(sizes):,} bytes as JSON"]
    shown = min(limits.page_rows, int(limits.response * len(sizes) / sum(sizes)))
    return [], [f"{where}: the first page shows about {shown} rows"] if shown < limits.page_rows else []
