"""The report: one HTML file with its pictures inside, rendered from measured values alone."""

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from modelzoo_datasets.plots import base

from . import figures, tables
from .verdicts import verdicts

_IN_CURVES = ("zoo members", "average of pairs", "scratch")  # beside samples and noise like them


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
    populations, epochs = evaluation["populations"], evaluation["protocol"]["fine_tune"]
    questions = {question: _tests(evaluation, question) for question in ("zero-shot", "fine-tuning", "transfer")}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["table"] = _html_table
    template = environment.from_string((files("hyperrep.report") / "report.html.j2").read_text())
    return template.render(
        title=title,
        verdicts=verdicts(evaluation),
        populations=tables.accuracy_table(populations, epochs),
        novelty=tables.novelty_table(populations),
        accounting=tables.accounting_table(populations, epochs, evaluation["offset"]),
        offset=evaluation["offset"],
        elsewhere={
            place: tables.elsewhere_table(evaluation[place], epochs)
            for place in ("transfer", "changed")
            if evaluation[place]
        },
        ensembles=tables.ensemble_table(populations) if _has_ensembles(populations) else None,
        tests={**questions, **{q: _tests(evaluation, q) for q in ("changed", "ensembles")}},
        descriptions={population["name"]: population["what"] for population in populations},
        probes=tables.probe_table(evaluation["probes"]),
        pictures={name: _data_url(png) for name, png in _pictures(zoos, layers, evaluation).items()},
        facts=facts,
    )


def _pictures(
    zoos: Mapping[str, pd.DataFrame], layers: Sequence[str], evaluation: Mapping[str, Any]
) -> dict[str, bytes]:
    populations, last = evaluation["populations"], max(evaluation["protocol"]["fine_tune"])
    curves = [p for p in populations if p["curves"] and (p["sampled"] or p["name"] in _IN_CURVES or _is_noise(p))]
    pictures = {
        "zoo": base.accuracy_over_epochs(zoos),
        "curves": figures.fine_tuning_curves(curves, last),
        "frontier": figures.frontier(populations),
        "reconstruction": base.reconstruction_bars(evaluation["reconstruction"], layers),
        "probes": base.probe_bars(evaluation["probes"]),
        "map": figures.embedding_map(evaluation["embeddings"]),
    }
    for place in ("transfer", "changed"):
        if evaluation[place]:
            pictures[place] = figures.elsewhere_curves(evaluation[place], last)
    if _has_ensembles(populations):
        members = [p for p in populations if p["sampled"] or p["name"] in (*_IN_CURVES, "training members")]
        pictures["ensembles"] = figures.ensemble_curves(members)
    return pictures


def _is_noise(population: Mapping[str, Any]) -> bool:
    return bool(population["mirrors"]) and str(population["name"]).startswith("noise")


def _has_ensembles(populations: Sequence[Mapping[str, Any]]) -> bool:
    return any(population["ensembles"] for population in populations)


def _tests(evaluation: Mapping[str, Any], question: str) -> pd.DataFrame:
    return tables.comparison_table([row for row in evaluation["comparisons"] if row["question"] == question])


def _html_table(table: pd.DataFrame) -> Markup:
    return Markup(table.to_html(index=False, border=0, escape=True, na_rep=""))


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
