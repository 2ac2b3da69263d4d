"""The dataset card: YAML that the Hub and `datasets` read, and a text rendered from measured facts alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import jinja2
import pandas as pd
from huggingface_hub import DatasetCard, DatasetCardData

from ..._util import SPLITS
from ...architectures import ACTIVATION_MODULES, architecture_names, get_architecture
from ...engines import METRICS
from ...images import get_image_dataset, image_dataset_names
from ...zoo import ZooInfo
from ..card_metadata import CardMetadata as CardMetadata
from ..checksums import CHECKSUMS_FILE
from ..schema import Columns, features
from .code import ModuleCode, module_code
from .figures import ORIGIN, last_states, varied_columns
from .known_issues import defects_of
from .sql import example_queries

_SHOWN = 24  # values of an axis
_TAGS = ["model-zoo", "neural-network-weights", "weight-space-learning", "modelzoo-datasets"]
_UNKNOWN = "unknown"  # the Hub's word for a licence that nobody named


@dataclass(frozen=True, kw_only=True)
class ConfigFacts:
    """What the card says of one config, all of it measured or recorded."""

    name: str
    zoo: ZooInfo
    rows: pd.DataFrame  # one per published state, with split
    columns: Columns
    diverged: int  # models with weights that are not finite
    num_bytes: dict[str, int]  # "<config>/<split>" -> bytes of the uncompressed table
    statistics: dict[str, Any] | None  # of the population, as its zoo folder keeps them
    pictures: Mapping[str, str]  # path in the dataset folder -> title
    missing: Mapping[str, Sequence[int]] = field(default_factory=dict)  # model -> epochs that others have and it lacks


def render_card(
    repo_id: str, publication: CardMetadata, configs: list[ConfigFacts], *, kept_diverged: bool = False
) -> str:
    """README.md of the dataset folder.

    Args:
        repo_id: ORG/NAME, or . for examples that run in the folder itself.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"spread": _spread, "number": _number}
    template = environment.from_string((files("modelzoo_datasets.builder.card") / "card.md.j2").read_text())
    first = configs[0]
    inline = "weights" in first.columns.all.names
    body = template.render(
        repo_id=repo_id,
        source="str(Path.cwd())" if repo_id == "." else f'"{repo_id}"',  # `datasets` takes no "." for a folder
        publication=publication,
        license=publication.license or _UNKNOWN,
        configs=[_summary(config, kept_diverged=kept_diverged) for config in configs],
        metrics=[name for name in METRICS if any(config.rows[name].notna().any() for config in configs)],
        zoo=first.zoo,
        images=_images(first.zoo.images),
        kept=kept_diverged,
        own={**first.columns.own, **dict.fromkeys(first.columns.measured, "float")},
        inline=inline,
        layout=first.zoo.layout,
        module=_module(first.zoo.architecture, configs),
        activations={name: kind.__name__ for name, kind in ACTIVATION_MODULES.items()},
        queries=_queries(repo_id, configs, inline=inline),
        checksums=CHECKSUMS_FILE,
    )
    header = DatasetCardData(**_header(publication, configs)).to_yaml(line_break="\n")
    return str(DatasetCard(f"---\n{header}\n---\n\n{body}"))


def _module(architecture: str, configs: list[ConfigFacts]) -> ModuleCode | None:
    """The code of a network, as far as it is known here, and the activations of all states are."""
    code = module_code(get_architecture(architecture)) if architecture in architecture_names() else None
    found = {activation for config in configs for activation in config.rows["activation"]}
    return None if code is not None and code.takes_activation and not found <= {*ACTIVATION_MODULES} else code


def _images(name: str) -> Mapping[str, Any] | None:
    """How images come to the networks, as far as they are known here."""
    if name not in image_dataset_names():
        return None
    known = get_image_dataset(name)
    return {"shape": known.input_shape, "classes": known.classes, "mean": known.mean, "std": known.std}


def _queries(repo_id: str, configs: list[ConfigFacts], *, inline: bool) -> list[Any]:
    """Examples of the first config with a grid, or else of the first."""
    varied = [varied_columns(last_states(config.rows), _own_settings(config)) for config in configs]
    chosen = next((i for i, names in enumerate(varied) if names), 0)
    return example_queries(repo_id, configs[chosen].name, varied[chosen][:3], inline=inline)


def _header(publication: CardMetadata, configs: list[ConfigFacts]) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    infos: list[dict[str, Any]] = []
    for facts in configs:
        splits = [split for split in SPLITS if (facts.rows["split"] == split).any()]
        for name, arrow in (
            (facts.name, facts.columns.all),
            (f"{facts.name}_index", facts.columns.index),
        ):
            files_of = [{"split": s, "path": f"{name}/{s}-*.parquet"} for s in splits]
            entry: dict[str, Any] = {"config_name": name, "data_files": files_of}
            if not entries:
                entry["default"] = True
            entries.append(entry)
            sizes = [
                {
                    "name": split,
                    "num_bytes": facts.num_bytes[f"{name}/{split}"],
                    "num_examples": int((facts.rows["split"] == split).sum()),
                }
                for split in splits
            ]
            infos.append({"config_name": name, "features": features(arrow), "splits": sizes})
    states = sum(len(facts.rows) for facts in configs)
    return {
        "license": publication.license or _UNKNOWN,
        "pretty_name": publication.title,
        "task_categories": ["other"],
        "tags": _TAGS,
        "size_categories": [_size_category(states)],
        "source_datasets": list(publication.source_datasets) or None,
        "configs": entries,
        "dataset_info": infos,
    }


def _spread(summary: Mapping[str, Any] | None) -> str:
    """Mean and spread over pairs, as far as there are pairs."""
    if not summary or summary["mean"] is None or math.isnan(summary["mean"]):
        return "-"
    known = summary["std"] is not None and not math.isnan(summary["std"])
    return f"{summary['mean']:.3f}" + (f" ± {summary['std']:.3f}" if known else "")


def _number(value: float) -> str:
    """Three digits of a number, as far as there is one."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def _own_settings(facts: ConfigFacts) -> list[str]:
    """Columns of a population's own that may be settings: not the names of its models."""
    return [name for name in facts.columns.own if name != ORIGIN]


def _few(axis: Sequence[Any]) -> list[Any]:
    """The values of an axis; of very many, which only imported zoos have, the ends."""
    known = [value for value in axis if not pd.isna(value)]
    missing = ["not recorded"] if len(known) < len(axis) else []
    return [*(known if len(known) <= _SHOWN else [f"{min(known)} to {max(known)} ({len(known)} values)"]), *missing]


def _mean_and_std(values: pd.Series) -> dict[str, float]:
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    return {"mean": float(numbers.mean()), "std": float(numbers.std(ddof=0))}


def _size_category(rows: int) -> str:
    """As the Hub counts."""
    bounds = ((1_000, "1K"), (10_000, "10K"), (100_000, "100K"), (10**6, "1M"), (10**7, "10M"), (10**8, "100M"))
    for place, (bound, name) in enumerate(bounds):
        if rows < bound:
            return f"{bounds[place - 1][1]}<n<{name}" if place else f"n<{name}"
    return "100M<n<1B"


def _own_values(facts: ConfigFacts, last: pd.DataFrame) -> dict[str, list[Any]]:
    return {name: _few(last[name].drop_duplicates().tolist()) for name in _own_settings(facts)}


def _summary(facts: ConfigFacts, *, kept_diverged: bool) -> dict[str, Any]:
    rows, axes = facts.rows, facts.zoo.recipe.axes
    last = last_states(rows)
    accuracy = pd.to_numeric(last["test_acc"], errors="coerce").astype("float64")
    return {
        "name": facts.name,
        "models": rows["model_id"].nunique(),
        "states": len(rows),
        "diverged": facts.diverged,
        "splits": {s: last.loc[last["split"] == s, "model_id"].nunique() for s in SPLITS},
        "accuracy": accuracy.quantile([0, 0.25, 0.5, 0.75, 1]).tolist(),
        "metrics": {name: _mean_and_std(last[name]) for name in METRICS},
        "fixed": {name: axis[0] for name, axis in axes.items() if len(axis) == 1 and axis[0] is not None},
        "varied": {name: _few(axis) for name, axis in axes.items() if len(axis) > 1} | _own_values(facts, last),
        "epochs": int(rows["epoch"].max()),
        "parent": facts.zoo.recipe.parent,
        "sparsity": _mean_and_std(last["sparsity"]) if "sparsity" in last else None,
        "ggap": _mean_and_std(last["ggap"]),
        "statistics": facts.statistics,
        "pictures": facts.pictures,
        "defects": defects_of(facts.zoo, rows, facts.diverged, facts.missing, kept_diverged=kept_diverged),
    }
