"""The source of a dataset, a folder or a repo on the Hub: the info of one config, its layout and its files."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from .._util import SPLITS
from ..architectures import Architecture, find_architecture
from ..errors import ArgumentError, FormatError, nearest_hint
from ..hub import RemoteFile, download_files, find_cached_file, list_remote_files, parse_repo_id
from ..weights import Layout
from ..zoo import (
    DATASET_FORMAT,
    FOOTERS_FILE,
    OLDER_DATASET_FORMATS,
    DatasetInfo,
    Footer,
    FormatTag,
    ZooInfo,
    check_plain_file,
    read_footers,
    read_layout,
)
from .file_checks import check_locations, check_shards
from .query import Query, Selection, select_rows
from .shard import Shard

_log = logging.getLogger(__name__)
_MIN_DOWNLOAD_FRACTION = 0.25  # if more of a file is needed, the whole file is downloaded into the cache
_INFO_FILES = ("zoo.json", "layout.json", FOOTERS_FILE)
_INDEX_SUFFIX = "_index"  # names the config with the same rows without weights


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One config of a dataset folder or repo."""

    source: str
    repo_id: str | None  # None for a folder
    revision: str | None
    config: str
    info: ZooInfo  # what zoo.json says about the config
    layout: Layout
    cache: bool  # whether to read decoded files from the cache, and to add them
    footers: Mapping[str, Footer]  # by path in the dataset; of older formats none

    @property
    def architecture(self) -> Architecture:
        """The architecture of all states."""
        return find_architecture(self.info.architecture, self.layout)

    @property
    def name(self) -> str:
        """The source with its config, for messages."""
        return f"{self.source}/{self.config}"

    def select_rows(self, split: str | None, query: Query) -> list[tuple[str, Selection]]:
        """Select the matching rows of a split, or of all splits; files that may have some are downloaded first.

        Returns:
            (split, selection) of every file, in the order of the dataset.

        Raises:
            ArgumentError: Nothing matches, or an epoch or model requested by name does not exist. An epoch that only
                some of the models have is no error.
        """
        splits = self.select_splits(split)
        query = self.resolve_models(splits, query)
        parts = [(name, select_rows(shard, query)) for name in splits for shard in self._download_shards(name, query)]
        if not parts:
            present = ", ".join(split for split in SPLITS if self.shards_in_place(split))
            raise ArgumentError(f"{self.name} has no split {' or '.join(splits)}; it has {present}")
        for column, values in query.requested.items():
            unmatched = {*values} - {value for _, part in parts for value in _unique(part, column)}
            known = self._read_values(splits, column) if unmatched else set()
            if absent := sorted(unmatched - known):
                raise ArgumentError(f"{self.name} has no {_describe_absent(column, absent, known)}")
        if not any(len(part) for _, part in parts):
            raise ArgumentError(
                f"no state of {self.name} matches the given split, epochs, models and filters; loosen one of them"
            )
        return parts

    def _read_values(self, splits: Iterable[str], column: str) -> set[Any]:
        """Return all values of a column in some splits."""
        query = Query(columns=(column,))
        parts = [select_rows(shard, query) for split in splits for shard in self.index_shards(split)]
        return {value for part in parts for value in _unique(part, column)}

    def _download_shards(self, split: str, query: Query) -> list[Shard]:
        """Return the local Parquet files of a split; files that may have matching rows are downloaded first."""
        if self.repo_id is not None and query.selects_every_model:
            self._fetch([f"{self.config}/{split}-*.parquet"])
        elif self.repo_id is not None:
            tables = [select_rows(shard, query).table for shard in self.index_shards(split)]
            num_local = sum(len(select_rows(shard, query)) for shard in self._local_shards(self.config, split))
            if sum(map(len, tables)) > num_local:
                ids = tuple({model for table in tables for model in table["model_id"].to_pylist()})
                model_query = Query(filters=(("model_id", "in", ids),))
                shards = self.shards_in_place(split)
                needed = [
                    shard.name
                    for shard in shards
                    if model_query.prune(shard.schema, shard.metadata, shard.has_checksum)
                ]
                self._fetch([f"{self.config}/{Path(name).name}" for name in needed])
        return self._local_shards(self.config, split)

    def index_shards(self, split: str) -> list[Shard]:
        """Return the smallest files with all rows of a split: on the Hub, a separate config has no weights."""
        if self.repo_id is None:
            return self._local_shards(self.config, split)
        self._fetch([f"{self.config}{_INDEX_SUFFIX}/{split}-*.parquet"])
        return self._local_shards(f"{self.config}{_INDEX_SUFFIX}", split)

    def shards_in_place(self, split: str) -> list[Shard]:
        """Return the Parquet files of a split without downloading any: local copies, otherwise files on the Hub."""
        local = self._local_shards(self.config, split)
        if self.repo_id is None or (local and Path(local[0].name).stem.endswith(f"-of-{len(local):05d}")):
            return local
        files = list_remote_files(self.repo_id, self.config, revision=self.revision)
        shards = [f for f in files if f.path.startswith(f"{self.config}/{split}-") and f.path.endswith(".parquet")]
        return [self._make_shard(self._cache_path(f.path) or f, f"{self.source}/{f.path}", f.path) for f in shards]

    def resolve_models(self, splits: Sequence[str], query: Query) -> Query:
        """Replace a number of models in a query by the names of the first models that have matching rows."""
        if query.max_models is None:
            return query
        names: dict[str, None] = {}
        for shard in (shard for split in splits for shard in self.index_shards(split)):
            names |= dict.fromkeys(select_rows(shard, query).table["model_id"].to_pylist())
            if len(names) >= query.max_models:
                break
        return replace(query, filters=(*query.filters, ("model_id", "in", tuple(names)[: query.max_models])))

    def weight_files(self, selections: Sequence[Selection], *, download: bool) -> dict[str, Path | RemoteFile]:
        """Return the files that hold the weights of selected rows outside of the Parquet files.

        Args:
            selections: The rows; nothing is returned for rows with their weights in the Parquet file.
            download: Whether to download a file of a repo of which a quarter or more is needed. All other files stay
                on the Hub, and their states are read one by one.

        Returns:
            name -> file.

        Raises:
            FormatError: A row names a file that is missing or outside of the dataset.
            HubError: The Hub cannot be reached.
        """
        needed = _count_bytes(selections)
        if outside := [name for name in needed if name.startswith("/") or ".." in name.split("/")]:
            raise FormatError(
                f"{self.name} names the weights file {outside[0]!r}, but weights files must lie inside the dataset; "
                "do not trust it, or build it again"
            )
        files = self._find_weight_files(needed, download=download)
        for part in selections:
            if part.locations is not None:
                check_locations(part, files, self._local_folder, self.layout)
        return files

    def _find_weight_files(self, needed: Mapping[str, int], *, download: bool) -> dict[str, Path | RemoteFile]:
        """Return name -> file; see `weight_files`.

        Args:
            needed: The bytes that are needed of each file.
            download: Whether to download files of which much is needed.
        """
        if self.repo_id is None:
            return {name: Path(self.source) / name for name in needed}
        files: dict[str, Path | RemoteFile] = {}
        for folder in sorted({name.rpartition("/")[0] for name in needed if not self._cache_path(name)}):
            remote = list_remote_files(self.repo_id, folder, revision=self.revision)
            files |= {file.path: file for file in remote if file.path in needed}
        remote = [file for file in files.values() if isinstance(file, RemoteFile)]
        large = [file.path for file in remote if needed[file.path] > _MIN_DOWNLOAD_FRACTION * file.size]
        if download and large:
            self._fetch(large)
        files |= {name: path for name in needed if (path := self._cache_path(name))}
        if missing := sorted({*needed} - {*files}):
            raise FormatError(
                f"{self.source} is incomplete: its table names {missing[0]}, which the repo does not have; "
                "try another revision, or ask its authors to push it again"
            )
        return files

    def select_splits(self, split: str | None) -> Sequence[str]:
        """Return the requested splits, all of them for None.

        Raises:
            ArgumentError: There is no split of this name.
        """
        if split not in (None, *SPLITS):
            raise ArgumentError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
        return [split] if split else SPLITS

    @property
    def _local_folder(self) -> Path:
        return Path(self.source) if self.repo_id is None else self._fetch(["zoo.json"])

    def _cache_path(self, path: str) -> Path | None:
        return find_cached_file(self.repo_id or "", path, revision=self.revision)

    def _fetch(self, patterns: Sequence[str]) -> Path:
        assert self.repo_id is not None
        return download_files(self.repo_id, patterns, revision=self.revision)

    def _local_shards(self, config: str, split: str) -> list[Shard]:
        folder = self._local_folder
        paths = sorted((folder / config).glob(f"{split}-*.parquet"))
        check_shards(paths, folder, self.footers, f"{config}/{split}-", is_whole=self.repo_id is None)
        return [self._make_shard(path, str(path), f"{config}/{path.name}") for path in paths]

    def _make_shard(self, file: Path | RemoteFile, name: str, path: str) -> Shard:
        if self.footers and path not in self.footers:
            raise FormatError(f"{name} is not listed in {FOOTERS_FILE} of its dataset; remove it, or build it again")
        return Shard(file, name, self.cache, self.footers.get(path))


def _describe_absent(column: str, absent: Sequence[Any], known: set[Any]) -> str:
    names = ", ".join(map(str, absent[:5])) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
    if column == "epoch":
        return f"state of epoch {names}; its epochs are {min(known)} to {max(known)}"
    return f"model {names} in the requested split; {nearest_hint(str(absent[0]), sorted(known))}"


def _unique(selection: Selection, column: str) -> list[Any]:
    return selection.table[column].unique().to_pylist()  # type: ignore[no-any-return]


def _count_bytes(selections: Iterable[Selection]) -> dict[str, int]:
    """Return the bytes that selected rows need of each file with weights."""
    needed: dict[str, int] = {}
    for locations in (part.locations for part in selections if part.locations is not None):
        for name, nbytes in zip(locations["weights_file"], locations["nbytes"], strict=True):
            needed[name] = needed.get(name, 0) + nbytes
    return needed


def open_dataset(source: str | Path, config: str | None, revision: str | None, *, cache: bool) -> Dataset:
    """Open one config of a dataset folder or repo.

    Args:
        source: A folder or a repo on the Hub, as `load_zoo` takes it.
        config: The name of the config; the first one if None.
        revision: A branch, tag or commit of the repo.
        cache: Whether to read decoded files from the cache, and to add them.

    Raises:
        FormatError: The source is no dataset of this format, or is damaged.
        ArgumentError: The dataset has no such config, or a folder is given a revision.
        HubError: The repo does not exist or cannot be reached.
    """
    repo_id = parse_repo_id(source)
    if repo_id is None and revision is not None:
        raise ArgumentError(f"revision must be None for a folder; got {revision!r} for {source}")
    folder = Path(source) if repo_id is None else download_files(repo_id, _INFO_FILES, revision=revision)
    for name in _INFO_FILES:
        if (folder / name).is_symlink():
            check_plain_file(folder / name, folder)
    configs = _read_info(folder, source, is_repo=repo_id is not None).configs
    config = config if config is not None else next(iter(configs), "")
    if config not in configs:
        if (base := config.removesuffix(_INDEX_SUFFIX)) in configs:
            raise ArgumentError(f"{source}: config {config!r} is {base!r} without weights; load {base!r}")
        raise ArgumentError(f"{source} has no config {config!r}; it has {', '.join(configs) or 'none'}")
    layout = read_layout(folder / "layout.json")
    if layout != configs[config].layout:
        raise FormatError(
            f"{folder / 'layout.json'} is not the layout of config {config!r} in zoo.json; build the dataset again"
        )
    footers = read_footers(folder)
    if not footers:
        if (tag := FormatTag.read(folder / "zoo.json").format) == DATASET_FORMAT:
            raise FormatError(
                f"{source} is incomplete: it has no {FOOTERS_FILE}; build the dataset again, or copy it again"
            )
        _warn_of_old_format(str(source), tag)
    return Dataset(
        source=str(source),
        repo_id=repo_id,
        revision=revision,
        config=config,
        info=configs[config],
        layout=layout,
        cache=cache,
        footers=footers,
    )


@cache
def _warn_of_old_format(source: str, tag: str | None) -> None:
    """Say once what loading cannot notice, because older formats list no footers."""
    _log.warning(
        "%s has the older format %r, which does not list its files: an exchanged Parquet file would not be noticed; "
        "build it again with modelzoo-build",
        source,
        tag,
    )


def _read_info(folder: Path, source: str | Path, *, is_repo: bool) -> DatasetInfo:
    """Read zoo.json of a dataset and check its format."""
    if not (folder / "zoo.json").is_file():
        raise FormatError(f"{source} is not a dataset folder: it has no zoo.json; build one with modelzoo-build")
    tag = FormatTag.read(folder / "zoo.json").format
    if tag not in (None, DATASET_FORMAT, *OLDER_DATASET_FORMATS):
        raise FormatError(
            f"{source} has format {tag!r}, but load_zoo reads {DATASET_FORMAT!r}; "
            + _suggest_format(tag or "", is_repo=is_repo)
        )
    return DatasetInfo.read(folder)


def _suggest_format(tag: str, *, is_repo: bool) -> str:
    """Return what to do about a dataset of another format."""
    kind, _, version = DATASET_FORMAT.rpartition("-")
    number = re.fullmatch(rf"{kind}-(\d+)", tag)
    if is_repo:  # every repo has a tag for each format that it was published in
        return f"try revision={DATASET_FORMAT!r}"
    if number is not None and int(number[1]) > int(version):
        return "a later release built it: update modelzoo-datasets"
    return "modelzoo-build makes one from zoo folders"
