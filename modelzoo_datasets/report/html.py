"""The report: one HTML file with its pictures inside, rendered from measured values alone."""

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from . import plots
from .tables import accuracy_table, probe_table
from .verdicts import verdicts


def render_report(
    title: str,
    zoos: Mapping[str, pd.DataFrame],
    layers: Sequence[str],
    evaluation: Mapping[str, Any],
    facts: Mapping[str, str],
) -> str:
    """A page that opens offline.

    Args:
        zoos: config -> table of its states (model_id, epoch, test_acc).
        layers: names of the layers, in the order of the layout.
        evaluation: what `evaluation.json` says.
        facts: what the page ends with: recipe, versions and so on.
    """
    populations = evaluation["populations"]
    by_name = {population["name"]: population for population in populations}
    pictures = {
        "zoo": plots.accuracy_over_epochs(zoos),
        "curves": plots.fine_tuning_curves(
            [p for p in populations if p["n"] > 1 and not p["name"].startswith("reconstructed")]
        ),
        "distance": plots.accuracy_against_distance(populations),
        "reconstruction": plots.reconstruction_bars(evaluation["reconstruction"], layers),
        "probes": plots.probe_bars(evaluation["probes"]),
        "map": plots.embedding_map(evaluation["embeddings"]),
    }
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["table"] = _html_table
    template = environment.from_string((files("modelzoo_datasets.report") / "report.html.j2").read_text())
    return template.render(
        title=title,
        verdicts=verdicts(by_name, evaluation),
        populations=accuracy_table(populations),
        descriptions={population["name"]: population["what"] for population in populations},
        probes=probe_table(evaluation["probes"]),
        pictures={name: _data_url(png) for name, png in pictures.items()},
        facts=facts,
    )


def _html_table(table: pd.DataFrame) -> Markup:
    return Markup(table.to_html(index=False, border=0, escape=True, na_rep=""))


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
