"""Render the dataset card: the YAML header that the Hub and `datasets` read, and a text for readers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
import pandas as pd
from huggingface_hub import DatasetCard, DatasetCardData

from .._util import SPLITS
from ..analysis import MEASURES
from ..architectures import ACTIVATION_MODULES, Architecture, is_own
from ..engines import METRICS
from ..hub import name_repo
from ..images import get_image_dataset, image_dataset_names
from ..zoo import CardInfo, ZooInfo
from .card_examples import UNPACKING, ModuleCode, write_module_code, write_queries
from .card_figures import ORIGIN, find_varied_columns, select_last_states
from .card_links import list_links
from .dictionary import list_absent, list_columns
from .image_files import find_images
from .integrity import CHECKSUMS_FILE
from .known_issues import find_known_issues
from .module_file import find_module_path, write_module_file
from .schema import TableSchema, describe_features

_MAX_VALUES = 24  # values of a hyperparameter that are listed one by one
_TAGS = ["model-zoo", "neural-network-weights", "weight-space-learning", "modelzoo-datasets"]
_UNKNOWN = "unknown"  # the Hub's word for a license that nobody named
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")  # 1,000 times powers of 10


@dataclass(frozen=True, kw_only=True)
class ConfigSummary:
    """All that the card says about one config; everything is measured or recorded."""

    info: ZooInfo
    rows: pd.DataFrame  # one per published state, with split
    schema: TableSchema
    num_diverged: int  # models with weights that are not finite
    num_bytes: Mapping[str, int]  # "<config>/<split>" -> bytes of the uncompressed table
    statistics: Mapping[str, Any]  # from the zoo folder; empty if they were not computed
    pairs: pd.DataFrame  # similarities of pairs of models, empty if they were not computed
    figures: Mapping[str, str]  # path in the dataset folder -> title
    missing: Mapping[str, Sequence[int]]  # model -> epochs that only other models have

    @property
    def name(self) -> str:
        """The name of the config."""
        return self.info.recipe.config

    @property
    def setting_columns(self) -> list[str]:
        """Extra columns that may be hyperparameters, which the original name of a model is not."""
        return [name for name in self.schema.extra_columns if name != ORIGIN]


def render_card(
    repo_id: str | None, metadata: CardInfo, configs: Sequence[ConfigSummary], *, keep_diverged: bool = False
) -> str:
    """Return README.md of a dataset folder.

    Args:
        repo_id: ORG/NAME for the examples; None for examples that run in the folder itself.
        metadata: Title, license, text and citation.
        configs: The configs in their order; the first one is the default of `datasets`.
        keep_diverged: Whether models that diverged are published.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"spread": _format_spread, "number": _format_number}
    template = environment.from_string((files("modelzoo_datasets.builder") / "card.md.j2").read_text())
    first = configs[0]
    inline = first.schema.weights == "inline"
    body = template.render(
        metadata=metadata,
        license=metadata.license or _UNKNOWN,
        configs=[_summarize(config, keep_diverged=keep_diverged) for config in configs],
        metrics=[name for name in METRICS if any(config.rows[name].notna().any() for config in configs)],
        zoo=first.info,
        images=get_image_dataset(first.info.images) if first.info.images in image_dataset_names() else None,
        keep_diverged=keep_diverged,
        columns=list_columns([config.schema for config in configs]),
        absent=list_absent((TableSchema.from_info(c.info) for c in configs), (c.schema for c in configs)),
        inline=inline,
        layout=first.info.layout,
        is_own=is_own(first.info.architecture),
        module=_write_module(first.info.find_architecture(), configs),
        unpacking=UNPACKING,
        queries=_write_queries(configs, inline=inline),
        links=list_links(None if first.info.import_info is None else first.info.import_info.format),
        checksums=CHECKSUMS_FILE,
        source_file=_find_source_file(first.info),
        has_splits=find_images([first.info]) is not None,
    )
    header = DatasetCardData(**_make_header(metadata, configs)).to_yaml(line_break="\n")
    card = str(DatasetCard(f"---\n{header}\n---\n\n{body}"))
    return card if repo_id is None else name_repo(card, repo_id)


def _find_source_file(info: ZooInfo) -> str | None:
    """Return the path of the module's source in the dataset folder, None if there is none."""
    return find_module_path(info.architecture) if write_module_file(info.find_architecture()) else None


def _write_module(architecture: Architecture, configs: Sequence[ConfigSummary]) -> ModuleCode | None:
    """Return the code of the network, None if the architecture or one of the activations is not registered."""
    code = write_module_code(architecture) if architecture.has_module else None
    activations = {activation for config in configs for activation in config.rows["activation"]}
    return None if code is not None and code.uses_activation and not activations <= {*ACTIVATION_MODULES} else code


def _write_queries(configs: Sequence[ConfigSummary], *, inline: bool) -> dict[str, str]:
    """Return examples for the first config that varies a hyperparameter, or else for the first one."""
    varied = [find_varied_columns(select_last_states(config.rows), config.setting_columns) for config in configs]
    index = next((i for i, names in enumerate(varied) if names), 0)
    config = configs[index]
    has_accuracy = bool(config.rows["test_acc"].notna().any())
    return write_queries(config.name, varied[index][:3], inline=inline, has_accuracy=has_accuracy)


def _make_header(metadata: CardInfo, configs: Sequence[ConfigSummary]) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    infos: list[dict[str, Any]] = []
    for config in configs:
        counts = {split: int((config.rows["split"] == split).sum()) for split in SPLITS}
        splits = [split for split in SPLITS if counts[split]]
        for name, schema in ((config.name, config.schema.full), (f"{config.name}_index", config.schema.index)):
            data_files = [{"split": split, "path": f"{name}/{split}-*.parquet"} for split in splits]
            entries.append({"config_name": name, "data_files": data_files, **({} if entries else {"default": True})})
            sizes = [
                {"name": split, "num_bytes": config.num_bytes[f"{name}/{split}"], "num_examples": counts[split]}
                for split in splits
            ]
            infos.append({"config_name": name, "features": describe_features(schema), "splits": sizes})
    return {
        "license": metadata.license or _UNKNOWN,
        "pretty_name": metadata.title,
        "task_categories": ["other"],
        "tags": _TAGS,
        "size_categories": [_size_category(sum(len(config.rows) for config in configs))],
        "source_datasets": list(metadata.source_datasets) or None,
        "configs": entries,
        "dataset_info": infos,
    }


def _size_category(num_rows: int) -> str:
    """Return the Hub's category of a number of rows."""
    for power, name in enumerate(_SIZES):
        if num_rows < 1_000 * 10**power:
            return f"{_SIZES[power - 1]}<n<{name}" if power else f"n<{name}"
    return f"n>{_SIZES[-1]}"


def _format_spread(quartiles: Sequence[float] | None) -> str:
    """Return "median (25 % to 75 %)": the losses of a few models that fail can be larger than all others together."""
    if quartiles is None or math.isnan(quartiles[1]):
        return "-"
    low, median, high = (f"{value:.3f}" for value in quartiles)
    return f"{median} ({low} to {high})"


def _format_number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _shorten(values: Sequence[Any]) -> list[Any]:
    """Return the values of a hyperparameter; of very many values, which only imported zoos have, the two ends."""
    present = [value for value in values if not pd.isna(value)]
    missing = ["not recorded"] if len(present) < len(values) else []
    if len(present) > _MAX_VALUES:
        return [f"{min(present)} to {max(present)} ({len(present)} values)", *missing]
    return [*present, *missing]


def _compute_quartiles(values: pd.Series) -> list[float]:
    """Return the quartiles of the values that are recorded."""
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    return [float(value) for value in numbers.quantile([0.25, 0.5, 0.75])]


def _summarize(config: ConfigSummary, *, keep_diverged: bool) -> dict[str, Any]:
    """Return the values that the template shows of a config."""
    rows, info = config.rows, config.info
    last, axes = select_last_states(rows), info.recipe.axes
    accuracy = pd.to_numeric(last["test_acc"], errors="coerce").astype("float64")
    extra = {name: _shorten(last[name].drop_duplicates().tolist()) for name in config.setting_columns}
    issues = find_known_issues(info, rows, config.num_diverged, config.missing, keep_diverged=keep_diverged)
    return {
        "name": config.name,
        "models": rows["model_id"].nunique(),
        "states": len(rows),
        "num_diverged": config.num_diverged,
        "splits": {split: last.loc[last["split"] == split, "model_id"].nunique() for split in SPLITS},
        "accuracy": accuracy.quantile([0, 0.25, 0.5, 0.75, 1]).tolist(),
        "metrics": {name: _compute_quartiles(last[name]) for name in METRICS},
        "fixed": {name: axis[0] for name, axis in axes.items() if len(axis) == 1 and axis[0] is not None},
        "varied": {name: _shorten(axis) for name, axis in axes.items() if len(axis) > 1} | extra,
        "epochs": int(rows["epoch"].max()),
        "parent": info.recipe.parent,
        "sparsity": _compute_quartiles(last["sparsity"]) if "sparsity" in last else None,
        "ggap": _compute_quartiles(last["ggap"]),
        "statistics": config.statistics,
        "pairs": {name: _compute_quartiles(config.pairs[name]) for name in MEASURES if len(config.pairs)},
        "figures": config.figures,
        "issues": issues,
    }
