"""The SQL of a card: examples for DuckDB, which the viewer's console runs too."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Query:
    """One example."""

    title: str
    sql: str


def example_queries(repo_id: str, config: str, varied: Sequence[str], *, inline: bool) -> list[Query]:
    """Queries of one config.

    Args:
        repo_id: ORG/NAME, or . for files below the current folder.
        varied: columns of hyper-parameters with more than one value.
        inline: whether the weights are in the table.
    """
    place = "" if repo_id == "." else f"hf://datasets/{repo_id}/"
    index, whole = (f"'{place}{name}/*.parquet'" for name in (f"{config}_index", config))
    queries = [Query("Test accuracy by epoch", _BY_EPOCH.format(files=index))]
    if varied:
        names = ", ".join(f'"{name}"' for name in varied)
        queries.append(Query("The best hyper-parameters by the mean of their models", _BEST.format(names, files=index)))
    if inline:
        queries.append(Query("The norm of the weights, computed where they are", _NORMS.format(files=whole)))
    return queries


_BY_EPOCH = """\
SELECT epoch, count(*) AS states, avg(test_acc) AS mean_acc, max(test_acc) AS best_acc
FROM {files}
GROUP BY epoch
ORDER BY epoch;"""

_BEST = """\
SELECT {0}, count(*) AS models, avg(last_acc) AS mean_acc
FROM (
  SELECT model_id, {0}, arg_max(test_acc, epoch) AS last_acc
  FROM {files}
  GROUP BY model_id, {0}
)
GROUP BY {0}
ORDER BY mean_acc DESC NULLS LAST
LIMIT 10;"""

_NORMS = """\
SELECT model_id, epoch, sqrt(list_inner_product(weights, weights)) AS norm
FROM {files}
ORDER BY norm DESC
LIMIT 10;"""
