"""A source and a config of it: zoo.json, layout, and the Parquet files of a split, downloaded or not."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .._util import SPLITS
from ..architectures import Architecture
from ..errors import FormatError
from ..hub import RemoteFile, cached_file, fetch, remote_files, repo_id_of
from ..weights import Layout
from ..zoo import DATASET_FORMAT, DatasetInfo, FormatTag, ZooInfo, read_json
from .query import Query
from .shard import Selection, Shard, select_rows

_MUCH = 0.25  # of a file, from which it is downloaded whole, and kept
_INDEX = "_index"  # behind the name of a config: the same rows without weights


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One config of a dataset folder or repo."""

    source: str
    repo_id: str | None  # None for a folder
    revision: str | None
    config: str
    info: ZooInfo  # of the config
    layout: Layout
    cache: bool  # whether to read and keep what is decoded

    @property
    def architecture(self) -> Architecture:
        """What all states are of."""
        return self.info.find_architecture()

    def shards(self, split: str, wanted: Query) -> list[Shard]:
        """The Parquet files of a split that may have wanted rows, on this machine: what is missing is downloaded."""
        if self.repo_id is not None and wanted.of_every_model:
            self._fetch([f"{self.config}/{split}-*.parquet"])
        elif self.repo_id is not None:
            index = [select_rows(shard, wanted).table for shard in self.index(split)]
            if sum(map(len, index)) > sum(len(select_rows(shard, wanted)) for shard in self._local(self.config, split)):
                ids = tuple({model for table in index for model in table["model_id"].to_pylist()})
                among = Query().more(("model_id", "in", ids))
                self._fetch([f"{self.config}/{Path(s.name).name}" for s in self.remote(split) if s.groups(among)])
        return self._local(self.config, split)

    def index(self, split: str) -> list[Shard]:
        """All rows of a split in the smallest files that have them: on the Hub they are apart from the weights."""
        if self.repo_id is None:
            return self._local(self.config, split)
        self._fetch([f"{self.config}{_INDEX}/{split}-*.parquet"])
        return self._local(f"{self.config}{_INDEX}", split)

    def named(self, splits: Sequence[str], wanted: Query) -> Query:
        """The same with names where the first few models are wanted: in the order of the dataset."""
        if wanted.first is None:
            return wanted
        found: dict[str, None] = {}
        for shard in (shard for split in splits for shard in self.index(split)):
            found |= dict.fromkeys(select_rows(shard, wanted).table["model_id"].to_pylist())
            if len(found) >= wanted.first:
                break
        return wanted.more(("model_id", "in", tuple(found)[: wanted.first]))

    def remote(self, split: str) -> list[Shard]:
        """The Parquet files of a split, those that were not downloaded left on the Hub."""
        if self.repo_id is None:
            return self._local(self.config, split)
        here = self._local(self.config, split)
        if here and Path(here[0].name).stem.endswith(f"-of-{len(here):05d}"):  # all of them
            return here
        files = remote_files(self.repo_id, self.config, revision=self.revision)
        shards = [f for f in files if f.path.startswith(f"{self.config}/{split}-") and f.path.endswith(".parquet")]
        return [Shard(self._cached(file.path) or file, f"{self.source}/{file.path}", self.cache) for file in shards]

    def weight_files(self, parts: Sequence[Selection], *, download: bool) -> dict[str, Path | RemoteFile]:
        """The files that rows name, of weights that lie in files of their own; none where they are in the table.

        Args:
            download: of a repo those files of which much is wanted; of the others states are read one by one.
        """
        wanted: dict[str, int] = {}  # bytes by file
        for places in (part.places for part in parts if part.places is not None):
            for name, nbytes in zip(places["weights_file"], places["nbytes"], strict=True):
                wanted[name] = wanted.get(name, 0) + nbytes
        if outside := [name for name in wanted if name.startswith("/") or ".." in name.split("/")]:
            raise FormatError(f"{self.source}/{self.config} names a file outside of the dataset: {outside[0]}")
        if self.repo_id is None:
            return {name: Path(self.source) / name for name in wanted}
        found: dict[str, Path | RemoteFile] = {}
        for folder in sorted({name.rpartition("/")[0] for name in wanted if not self._cached(name)}):
            remote = remote_files(self.repo_id, folder, revision=self.revision)
            found |= {file.path: file for file in remote if file.path in wanted}
        much = [f.path for f in found.values() if isinstance(f, RemoteFile) and wanted[f.path] > _MUCH * f.size]
        if download and much:
            self._fetch(much)
        found |= {name: path for name in wanted if (path := self._cached(name))}
        if missing := sorted({*wanted} - {*found}):
            raise FormatError(f"{self.source} is incomplete: it has no {missing[0]}")
        return found

    def _cached(self, path: str) -> Path | None:
        return cached_file(self.repo_id or "", path, revision=self.revision)

    def splits(self, split: str | None) -> Sequence[str]:
        """The splits that are meant.

        Raises:
            FormatError: there is none of that name.
        """
        if split not in (None, *SPLITS):
            raise FormatError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        return [split] if split else SPLITS

    def _fetch(self, patterns: Sequence[str]) -> Path:
        assert self.repo_id is not None
        return fetch(self.repo_id, patterns, revision=self.revision)

    def _local(self, config: str, split: str) -> list[Shard]:
        """The files that are on this machine."""
        folder = Path(self.source) if self.repo_id is None else self._fetch(["zoo.json"])
        return [Shard(path, str(path), self.cache) for path in sorted((folder / config).glob(f"{split}-*.parquet"))]


def open_dataset(source: str | Path, config: str | None, revision: str | None, *, cache: bool) -> Dataset:
    """Read what a source says of itself, and check that it has the config.

    Raises:
        FormatError: it is no dataset of this format, or has no such config.
        HubError: it is on the Hub, which does not serve it.
    """
    repo_id = repo_id_of(source)
    if repo_id is None and revision is not None:
        raise FormatError(f"{source} is a folder, which has no revision {revision!r}")
    folder = Path(source) if repo_id is None else fetch(repo_id, ["zoo.json", "layout.json"], revision=revision)
    configs = _read_info(folder, source, repo_id is not None).configs
    config = config if config is not None else next(iter(configs), "")
    if config not in configs:
        if config.removesuffix(_INDEX) in configs:
            base = config.removesuffix(_INDEX)
            raise FormatError(f"{source}: {config!r} is the table of {base!r} without weights; load {base!r}")
        raise FormatError(f"{source} has no config {config!r}; it has {', '.join(configs) or 'none'}")
    return Dataset(
        source=str(source),
        repo_id=repo_id,
        revision=revision,
        config=config,
        info=configs[config],
        layout=Layout.from_json(read_json(folder / "layout.json")),
        cache=cache,
    )


def _read_info(folder: Path, source: str | Path, of_the_hub: bool) -> DatasetInfo:
    """zoo.json of a dataset; of what is on the Hub, every format has its tag."""
    if not (folder / "zoo.json").is_file():
        raise FormatError(f"{source} is no dataset folder: it has no zoo.json; modelzoo-build makes one")
    tag = FormatTag.read(folder / "zoo.json")
    if tag.format not in (None, DATASET_FORMAT):
        raise FormatError(
            f"{source} has format {tag.format!r}, but load_zoo reads {DATASET_FORMAT!r}; "
            + _remedy(tag.format or "", of_the_hub)
        )
    return DatasetInfo.read(folder)


def _remedy(found: str, of_the_hub: bool) -> str:
    kind, _, version = DATASET_FORMAT.rpartition("-")
    number = re.fullmatch(rf"{kind}-(\d+)", found)
    if of_the_hub:
        return f"try revision={DATASET_FORMAT!r}"
    if number is None:
        return "modelzoo-build makes one from zoo folders"
    if int(number[1]) > int(version):
        return "it was built by a later release: update modelzoo-datasets"
    return "it was built by an earlier release: modelzoo-build makes it anew from the zoo folders"
