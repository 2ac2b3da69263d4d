"""The SQL examples of a card, for DuckDB and the SQL console of the Hub's viewer."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SqlExample:
    """One query and its heading."""

    title: str
    sql: str


def make_sql_examples(repo_id: str, config: str, varied: Sequence[str], *, inline: bool) -> list[SqlExample]:
    """Return example queries of one config.

    Args:
        repo_id: ORG/NAME, or `.` for files below the current folder.
        config: Name of the config.
        varied: Columns of hyperparameters that have more than one value.
        inline: Whether the weights are in the table.
    """
    prefix = "" if repo_id == "." else f"hf://datasets/{repo_id}/"
    index, full = (f"'{prefix}{name}/*.parquet'" for name in (f"{config}_index", config))
    examples = [SqlExample("Test accuracy by epoch", _BY_EPOCH.format(files=index))]
    if varied:
        names = ", ".join(f'"{name}"' for name in varied)
        examples.append(SqlExample("The best hyperparameters by mean accuracy", _BEST.format(names, files=index)))
    if inline:
        examples.append(SqlExample("The norm of the weights", _NORMS.format(files=full)))
    return examples


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
