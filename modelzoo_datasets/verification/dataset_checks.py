"""Checks of a dataset folder alone: its rows are those of the recipe, its index, layout and card those of its files."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from .._util import file_sha256, one_line
from ..builder import CHECKSUMS_FILE, describe_features, list_data_files, read_checksums
from ..errors import FormatError
from ..zoo import LEFT_OUT, read_json
from .check import Check
from .dataset_target import REMEDY, DatasetConfig
from .table_checks import against_arithmetic, against_recipe, missing_epochs, model_columns
from .zoo_checks import foreign_layouts


def check_layouts(path: Path, configs: Sequence[DatasetConfig]) -> Check:
    """layout.json and the layouts in zoo.json are those of the architecture."""
    try:
        found = read_json(path / "layout.json")
    except FormatError as error:
        return Check("layout", 1, [f"{error}; {REMEDY}"])
    problems = []
    for config in configs:
        info = config.subject.info
        problems += [
            f"zoo.json: {name} of {config.name} is not that of architecture {info.architecture}; {REMEDY}"
            for name in foreign_layouts(info)
        ]
        if found != info.layout.to_json():
            problems.append(f"{path / 'layout.json'} is not the layout of {config.name} in zoo.json; {REMEDY}")
    return Check("layout", len(configs), problems)


def check_checksums(path: Path) -> Check:
    """Every file is listed with the checksum that it has, and every one that is listed is there."""
    try:
        listed = read_checksums(path)
    except FormatError as error:
        return Check("checksums", 0, [f"{error}; {REMEDY}"])
    there = set(list_data_files(path))
    problems = [f"{path / name} is missing, but listed in {CHECKSUMS_FILE}; {REMEDY}" for name in listed.keys() - there]
    problems += [f"{path / name} is not listed in {CHECKSUMS_FILE}; {REMEDY}" for name in there - listed.keys()]
    problems += [
        f"{path / name} has not the checksum that is listed in {CHECKSUMS_FILE}; {REMEDY}"
        for name in there & listed.keys()
        if file_sha256(path / name) != listed[name]
    ]
    return Check("checksums", len(listed), sorted(problems))


def check_rows(config: DatasetConfig, diverged: str) -> Check:
    """The rows, and the splits they are in, are those that the recipe in zoo.json gives."""
    subject, table = config.subject, config.subject.table
    columns = [name for name in model_columns(twins=subject.twins) if name != "index"] + [*subject.own_columns]
    source = f"config {config.name}"
    problems = [f"zoo.json: {source}: {what}" for what in subject.info.contradictions()]
    problems += against_recipe(table, subject.members, columns, source)
    problems += missing_epochs(table["model_id"].unique(), table, subject.members, source)
    problems += [what for _, what in against_arithmetic(table, source)]
    if diverged == LEFT_OUT:
        wrong = table.loc[~table["finite"].astype(bool), "model_id"].unique()
        problems += [f"{source}: {model} has weights that are not finite, so it must be left out" for model in wrong]
    elif not problems and _states_sha256(config) != subject.info.states_sha256:
        problems.append(f"{source}: its states are not those of the zoo folder that it was built from")
    return Check(f"{config.name}: recipe", table["model_id"].nunique(), [f"{what}; {REMEDY}" for what in problems])


def _states_sha256(config: DatasetConfig) -> str:
    """Hash of the hashes of all states in the order of the grid, as the build records it."""
    members = config.subject.members
    rows = sorted(config.subject.rows.items(), key=lambda item: (members[item[0][0]].index, item[0][1]))
    return hashlib.sha256("".join(str(row["sha256"]) for _, row in rows).encode()).hexdigest()


def check_index(config: DatasetConfig) -> Check:
    """`<config>_index` has the same rows, without weights."""
    folder = config.path / f"{config.name}_index"
    problems = []
    for split, table in config.scalars.items():
        path = folder / f"{split}-00000-of-00001.parquet"
        try:
            index = pq.read_table(path, partitioning=None)
        except (OSError, pa.ArrowException) as error:
            problems.append(f"cannot read {path}: {error}; {REMEDY}")
            continue
        if what := _difference(index, table):
            problems.append(f"{path}: {what}; {REMEDY}")
    wanted = {f"{split}-00000-of-00001.parquet" for split in config.scalars}
    extra = {found.name for found in folder.glob("*.parquet")} - wanted
    problems += [f"{folder / name} belongs to no file of {config.name}; {REMEDY}" for name in sorted(extra)]
    return Check(f"{config.name}: index", sum(table.num_rows for table in config.scalars.values()), problems)


def _difference(index: pa.Table, table: pa.Table) -> str | None:
    """The first place in which the index differs from the rows with weights."""
    if index.schema.names != table.schema.names or index.schema.types != table.schema.types:
        return f"its columns are not those of the files with weights, {', '.join(table.schema.names)}"
    if index.num_rows != table.num_rows:
        return f"it has {index.num_rows} rows, the files with weights have {table.num_rows}"
    for name in table.schema.names:
        if not index[name].equals(table[name]):
            pairs = enumerate(zip(index[name].to_pylist(), table[name].to_pylist(), strict=True))
            row = next((row for row, (a, b) in pairs if a != b), 0)
            model, epoch = table["model_id"][row].as_py(), table["epoch"][row].as_py()
            found, wanted = index[name][row].as_py(), table[name][row].as_py()
            return f"{name} of {model} epoch {epoch} is {found!r}, the file with weights has {wanted!r}"
    return None


def check_card(path: Path, configs: Sequence[DatasetConfig]) -> Check:
    """README.md names, for `datasets`, exactly the configs, files, columns and numbers of rows that are there."""
    from huggingface_hub import metadata_load  # here, because it takes most of a second to import

    card, wanted = path / "README.md", _described_by_files(configs)
    try:
        found = _described_by_card(metadata_load(card) or {})
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError) as error:
        what = one_line(f"{type(error).__name__}: {error}")
        return Check("card", 1, [f"{card} has no configs and dataset_info that can be read ({what}); {REMEDY}"])
    problems = [
        f"{card}: {name} is {'missing' if name in wanted else 'no config of zoo.json'}; {REMEDY}"
        for name in sorted(found.keys() ^ wanted.keys())
    ]
    problems += [
        f"{card}: the {what} of {name} are not those of its files; {REMEDY}"
        for name in wanted.keys() & found.keys()
        for what in wanted[name]
        if found[name][what] != wanted[name][what]
    ]
    return Check("card", len(wanted), sorted(problems))


def _described_by_files(configs: Sequence[DatasetConfig]) -> dict[str, dict[str, Any]]:
    described = {}
    for config in configs:
        rows = {split: table.num_rows for split, table in config.scalars.items()}
        for name, arrow in ((config.name, config.columns.full), (f"{config.name}_index", config.columns.index)):
            files = {split: f"{name}/{split}-*.parquet" for split in rows}
            described[name] = {"files": files, "rows": rows, "features": describe_features(arrow)}
    return described


def _described_by_card(header: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Raises LookupError, TypeError or ValueError for what is no such header."""
    infos = {info["config_name"]: info for info in header["dataset_info"]}
    described = {}
    for entry in header["configs"]:
        info = infos[entry["config_name"]]
        files = {part["split"]: part["path"] for part in entry["data_files"]}
        rows = {split["name"]: split["num_examples"] for split in info["splits"]}
        described[entry["config_name"]] = {"files": files, "rows": rows, "features": info["features"]}
    return described
