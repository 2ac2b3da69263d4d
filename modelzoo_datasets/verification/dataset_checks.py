"""Checks of a dataset folder: its rows match the recipe, and its index, layout, card and checksums match its files."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from .._util import file_sha256, one_line
from ..builder import CHECKSUMS_FILE, describe_features, list_data_files, read_checksums
from ..errors import FormatError
from ..hub import read_card_header
from ..zoo import FOOTERS_FILE, LEFT_OUT, open_parquet, read_footers, read_json
from .base import Check
from .dataset_target import REMEDY, DatasetConfig
from .table_checks import compare_with_recipe, find_wrong_epochs, find_wrong_metrics, model_columns
from .zoo_checks import find_foreign_layouts


def check_layouts(path: Path, configs: Sequence[DatasetConfig]) -> Check:
    """Check that layout.json and the layouts in zoo.json are those of the architecture."""
    try:
        layout = read_json(path / "layout.json")
    except FormatError as error:
        return Check("layout", 1, [f"{error}; {REMEDY}"])
    problems = []
    for config in configs:
        info = config.target.info
        problems += [
            f"zoo.json: {name} of {config.name} is not that of architecture {info.architecture}; {REMEDY}"
            for name in find_foreign_layouts(info)
        ]
        if layout != info.layout.to_json():
            problems.append(f"{path / 'layout.json'} is not the layout of {config.name} in zoo.json; {REMEDY}")
    return Check("layout", len(configs), problems)


def check_checksums(path: Path) -> Check:
    """Check that every file is listed with its checksum, and that every listed file exists."""
    try:
        checksums = read_checksums(path)
    except FormatError as error:
        return Check("checksums", 0, [f"{error}; {REMEDY}"])
    present = set(list_data_files(path))
    missing, unlisted = checksums.keys() - present, present - checksums.keys()
    problems = [f"{path / name} is listed in {CHECKSUMS_FILE}, but missing; {REMEDY}" for name in missing]
    problems += [f"{path / name} is not listed in {CHECKSUMS_FILE}; {REMEDY}" for name in unlisted]
    problems += [
        f"{path / name} has another checksum than {CHECKSUMS_FILE} lists; {REMEDY}"
        for name in present & checksums.keys()
        if file_sha256(path / name) != checksums[name]
    ]
    return Check("checksums", len(checksums), sorted(problems))


def check_footers(path: Path) -> Check:
    """Check that the footer of every Parquet file is the one that the dataset lists."""
    try:
        footers = read_footers(path)
    except FormatError as error:
        return Check("footers", 0, [str(error)])
    if not footers:
        return Check("footers", 0, [f"{path / FOOTERS_FILE} is missing; {REMEDY}"])
    present = {file.relative_to(path).as_posix() for file in path.rglob("*.parquet")}
    problems = [f"{path / name} is not listed in {FOOTERS_FILE}; {REMEDY}" for name in present - footers.keys()]
    for name, footer in footers.items():
        try:
            with open_parquet(path / name, footer):
                pass
        except (OSError, pa.ArrowException, FormatError) as error:
            problems.append(f"cannot read {path / name}: {one_line(error)}; {REMEDY}")
    return Check("footers", len(footers), sorted(problems))


def check_rows(config: DatasetConfig, diverged: str) -> Check:
    """Check that the rows, and their splits, are those that the recipe in zoo.json gives.

    Args:
        config: the config.
        diverged: whether the dataset keeps models with weights that are not finite, as zoo.json says it.
    """
    target, table, source = config.target, config.target.table, f"config {config.name}"
    columns = [name for name in model_columns(target.info) if name != "index"]
    problems = [f"zoo.json: {source}: {line}" for line in target.info.contradictions()]
    problems += compare_with_recipe(table, target.members, columns, source)
    problems += find_wrong_epochs(table["model_id"].unique(), table, target.members, source)
    problems += [line for _, line in find_wrong_metrics(table, source)]
    if diverged == LEFT_OUT:
        models = table.loc[~table["finite"].astype(bool), "model_id"].unique()
        problems += [f"{source}: {model} has weights that are not finite, so it must be left out" for model in models]
    elif not problems and _hash_states(config) != target.info.states_sha256:
        problems.append(f"{source}: its states are not those of the zoo folder that it was built from")
    return Check(f"{config.name}: recipe", table["model_id"].nunique(), [f"{line}; {REMEDY}" for line in problems])


def _hash_states(config: DatasetConfig) -> str:
    """Return the hash of the hashes of all states in the order of the grid, as the build records it."""
    members = config.target.members
    rows = sorted(config.target.rows.items(), key=lambda item: (members[item[0][0]].index, item[0][1]))
    return hashlib.sha256("".join(str(row["sha256"]) for _, row in rows).encode()).hexdigest()


def check_index(config: DatasetConfig) -> Check:
    """Check that the config `<config>_index` has the same rows, without weights."""
    folder = config.path / f"{config.name}_index"
    problems = []
    for split, table in config.scalars.items():
        path = folder / f"{split}-00000-of-00001.parquet"
        try:
            with open_parquet(path, config.footers.get(f"{folder.name}/{path.name}")) as file:
                index = file.read()
        except (OSError, pa.ArrowException, FormatError) as error:
            problems.append(f"cannot read {path}: {one_line(error)}; {REMEDY}")
            continue
        if difference := _describe_difference(index, table):
            problems.append(f"{path}: {difference}; {REMEDY}")
    expected = {f"{split}-00000-of-00001.parquet" for split in config.scalars}
    extra = {path.name for path in folder.glob("*.parquet")} - expected
    problems += [f"{folder / name} belongs to no file of {config.name}; {REMEDY}" for name in sorted(extra)]
    return Check(f"{config.name}: index", sum(table.num_rows for table in config.scalars.values()), problems)


def _describe_difference(index: pa.Table, table: pa.Table) -> str | None:
    """Describe the first difference between the index and the rows with weights, None if there is none."""
    if index.schema.names != table.schema.names or index.schema.types != table.schema.types:
        return f"its columns must be those of the files with weights, {', '.join(table.schema.names)}"
    if index.num_rows != table.num_rows:
        return f"it has {index.num_rows} rows, the files with weights have {table.num_rows}"
    for name in (name for name in table.schema.names if not index[name].equals(table[name])):
        pairs = enumerate(zip(index[name].to_pylist(), table[name].to_pylist(), strict=True))
        row = next((row for row, (a, b) in pairs if a != b), 0)
        model, epoch, value = (table[column][row].as_py() for column in ("model_id", "epoch", name))
        recorded = index[name][row].as_py()
        return f"{name} of {model} epoch {epoch} is {recorded!r}, the file with weights has {value!r}"
    return None


def check_card(path: Path, configs: Sequence[DatasetConfig]) -> Check:
    """Check that README.md names, for `datasets`, exactly the existing configs, files, columns and numbers of rows."""
    card, expected = path / "README.md", _describe_files(configs)
    try:
        described = _describe_card(read_card_header(card))
    except (FormatError, LookupError, TypeError) as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        return Check("card", 1, [f"{card} has no configs and dataset_info that can be read ({reason}); {REMEDY}"])
    problems = [
        f"{card}: {name} is {'missing' if name in expected else 'no config of zoo.json'}; {REMEDY}"
        for name in sorted(described.keys() ^ expected.keys())
    ]
    problems += [
        f"{card}: the {key} of {name} are not those of its files; {REMEDY}"
        for name in expected.keys() & described.keys()
        for key in expected[name]
        if described[name][key] != expected[name][key]
    ]
    return Check("card", len(expected), sorted(problems))


def _describe_files(configs: Sequence[DatasetConfig]) -> dict[str, dict[str, Any]]:
    """Return config -> files, rows and features, as they are on disk."""
    described = {}
    for config in configs:
        rows = {split: table.num_rows for split, table in config.scalars.items()}
        for name, arrow in ((config.name, config.columns.full), (f"{config.name}_index", config.columns.index)):
            files = {split: f"{name}/{split}-*.parquet" for split in rows}
            described[name] = {"files": files, "rows": rows, "features": describe_features(arrow)}
    return described


def _describe_card(header: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the same of a card's header; raises LookupError, TypeError or ValueError if it is malformed."""
    infos = {info["config_name"]: info for info in header["dataset_info"]}
    described = {}
    for entry in header["configs"]:
        info = infos[entry["config_name"]]
        files = {part["split"]: part["path"] for part in entry["data_files"]}
        rows = {split["name"]: split["num_examples"] for split in info["splits"]}
        described[entry["config_name"]] = {"files": files, "rows": rows, "features": info["features"]}
    return described
