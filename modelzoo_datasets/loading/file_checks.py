"""Cheap comparisons of the files of a dataset with what their names and tables say; no file is read whole."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import FormatError
from ..weights import Layout
from ..zoo import SafetensorsHeader, check_plain_file
from .query import KEY_COLUMNS, Selection

_SHARD = re.compile(r"(?P<split>[a-z]+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.parquet")
_BUILD_AGAIN = "build the dataset again"


def check_shards(paths: Sequence[Path], folder: Path, listed: Iterable[str], prefix: str, *, is_whole: bool) -> None:
    """Check that the Parquet files of a split are those of one build, and plain files inside of the dataset.

    Args:
        paths: The files, sorted.
        folder: The dataset folder.
        listed: All paths that footers.json lists; none in older formats.
        prefix: The beginning of those of the split, such as `seed/train-`.
        is_whole: Whether all files must be there; of a repo on the Hub, only some may be downloaded.

    Raises:
        FormatError: A file is missing, has another name, or is a link, a pipe or a device.
    """
    if is_whole and not paths and (missing := sorted(path for path in listed if path.startswith(prefix))):
        raise FormatError(f"{folder} is incomplete: it has no {missing[0]}; {_BUILD_AGAIN}, or copy it again")
    totals = set()
    for path in paths:
        match = _SHARD.fullmatch(path.name)
        if match is None or not int(match["number"]) < int(match["total"]):
            raise FormatError(f"{path} is no file of a dataset; remove it, or {_BUILD_AGAIN}")
        totals.add(int(match["total"]))
        check_plain_file(path, folder)
    if len(totals) > 1:
        raise FormatError(f"{paths[0].parent} has files of two builds, {paths[0].name} and others; {_BUILD_AGAIN}")
    if is_whole and paths and len(paths) != (total := totals.pop()):
        present = {path.name for path in paths}
        split = paths[0].name.partition("-")[0]
        names = (f"{split}-{number:05d}-of-{total:05d}.parquet" for number in range(total))
        name = next(name for name in names if name not in present)
        raise FormatError(f"{paths[0].parent} is incomplete: it has no {name}; {_BUILD_AGAIN}, or copy it again")


def check_locations(selection: Selection, files: Mapping[str, object], folder: Path, layout: Layout) -> None:
    """Check that the places of states in other files are the places of these states there.

    The header of each local file is read, which names the tensors of each epoch.

    Args:
        selection: Rows with locations.
        files: Name -> path of each file; files on the Hub are not looked into.
        folder: The dataset folder.
        layout: The layout of a state.

    Raises:
        FormatError: A row names the file of another model, or a place where its state is not.
    """
    assert selection.locations is not None
    headers = {}
    for name in selection.locations["weights_file"].unique():
        if isinstance(path := files[name], Path):
            check_plain_file(path, folder)
            headers[name] = SafetensorsHeader.read(path).tensors
    first, last = layout.slots[0].name, layout.slots[-1].name
    keys = (selection.table[name].to_pylist() for name in KEY_COLUMNS)
    for model, epoch, (name, offset, nbytes) in zip(*keys, selection.locations.itertuples(index=False), strict=True):
        if Path(name).stem != model:
            raise FormatError(f"{name} is named as the file of model {model}, but is another's; {_BUILD_AGAIN}")
        if nbytes != 4 * layout.size or offset < 0:
            raise FormatError(
                f"{name}: expected states of {4 * layout.size} bytes, as layout.json says, got {nbytes}; {_BUILD_AGAIN}"
            )
        if name not in headers:
            continue
        begin, end = (headers[name].get(f"{epoch:03d}/{key}") for key in (first, last))
        if begin is None or end is None or (begin.start, end.stop) != (offset, offset + nbytes):
            raise FormatError(f"{name}: epoch {epoch} is not at byte {offset:,}, where its table says; {_BUILD_AGAIN}")
