"""The dataset card: YAML that the Hub and `datasets` read, and a text rendered from measured facts alone."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import jinja2
import pandas as pd
import yaml

from ..errors import RecipeError
from ..layout import Layout
from ..recipes import check_keys, find_recipe, read_recipe, recipe_names
from .schema import Columns, features

SPLITS = ("train", "validation", "test")
_SHOWN = 24  # values of an axis


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What a builder recipe says of a dataset: the words that cannot be measured."""

    title: str
    license: str = "cc-by-4.0"
    text: str = ""

    @classmethod
    def of(cls, zoo: dict[str, Any]) -> "Publication":
        """What `builders/` says of zoos (by their zoo.json) of a shipped recipe; plain defaults for all others."""
        zoo_recipe = zoo["recipe"]["recipe"]
        if zoo_recipe not in recipe_names("builders"):
            return cls(title=zoo_recipe)
        shipped = read_recipe(zoo_recipe)
        if (shipped.images, shipped.architecture) != (zoo["images"], zoo["architecture"]):
            return cls(title=zoo_recipe)  # somebody's own recipe of the same name
        path = find_recipe("builders", zoo_recipe)
        try:
            values = tomllib.loads(path.read_text())
            check_keys("a builder recipe", values, ("title", "license", "text"))
            return cls(**values)
        except (tomllib.TOMLDecodeError, TypeError, RecipeError) as error:
            raise RecipeError(f"builder recipe {path.name}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class ConfigFacts:
    """What the card says of one config, all of it measured or recorded."""

    name: str
    zoo: dict[str, Any]  # its zoo.json
    rows: pd.DataFrame  # one per published state, with split
    columns: Columns
    diverged: int  # models with weights that are not finite
    num_bytes: dict[str, int]  # "<config>/<split>" -> bytes of the uncompressed table
    statistics: dict[str, Any] | None  # of the population, as its zoo folder keeps them
    pictures: Mapping[str, str]  # path in the dataset folder -> title
    missing: Mapping[str, Sequence[int]] = field(default_factory=dict)  # model -> epochs that others have and it lacks


def render_card(
    repo_id: str, publication: Publication, configs: list[ConfigFacts], *, kept_diverged: bool = False
) -> str:
    """README.md of the dataset folder."""
    layout = Layout.from_json(configs[0].zoo["layout"])
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["spread"] = _spread
    template = environment.from_string((files("modelzoo_datasets.building") / "card.md.j2").read_text())
    body = template.render(
        repo_id=repo_id,
        publication=publication,
        configs=[_summary(config) for config in configs],
        zoo=configs[0].zoo,
        kept=kept_diverged,
        layout=layout,
    )
    header = _header(publication, configs)
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n{body}"


def _header(publication: Publication, configs: list[ConfigFacts]) -> dict[str, Any]:
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
        "license": publication.license,
        "pretty_name": publication.title,
        "tags": ["model-zoo", "neural-network-weights", "weight-space-learning"],
        "size_categories": [_size_category(states)],
        "configs": entries,
        "dataset_info": infos,
    }


def _spread(summary: Mapping[str, Any] | None) -> str:
    """Mean and spread over pairs, as far as there are pairs."""
    if not summary or summary["mean"] is None:
        return "-"
    return f"{summary['mean']:.3f}" + (f" ± {summary['std']:.3f}" if summary["std"] is not None else "")


def _few(axis: list[Any]) -> list[Any]:
    """The values of an axis; of very many, which only imported zoos have, the ends."""
    return axis if len(axis) <= _SHOWN else [f"{min(axis)} to {max(axis)} ({len(axis)} values)"]


def _mean_and_std(values: pd.Series) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=0))


def _size_category(rows: int) -> str:
    bounds = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M")]
    return next((name for bound, name in bounds if rows < bound), "1M<n<10M")


def _summary(facts: ConfigFacts) -> dict[str, Any]:
    rows = facts.rows
    last = rows[rows["epoch"] == rows.groupby("model_id")["epoch"].transform("max")]
    axes = facts.zoo["recipe"]["axes"]
    return {
        "name": facts.name,
        "models": rows["model_id"].nunique(),
        "states": len(rows),
        "diverged": facts.diverged,
        "splits": {s: last.loc[last["split"] == s, "model_id"].nunique() for s in SPLITS},
        "accuracy": last["test_acc"].quantile([0, 0.25, 0.5, 0.75, 1]).tolist(),
        "fixed": {name: axis[0] for name, axis in axes.items() if len(axis) == 1},
        "varied": {name: _few(axis) for name, axis in axes.items() if len(axis) > 1},
        "epochs": int(rows["epoch"].max()),
        "parent": facts.zoo["recipe"].get("parent"),
        "sparsity": _mean_and_std(last["sparsity"]) if "sparsity" in last else None,
        "ggap": _mean_and_std(last["ggap"]),
        "statistics": facts.statistics,
        "pictures": facts.pictures,
    }
