"""The report: one HTML file with its figures inside, rendered from measured values alone."""

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files

import jinja2
import pandas as pd
from markupsafe import Markup

from modelzoo_datasets.plots import plot_accuracy_over_epochs

from ..evaluation import MEMBERS, PAIRS, REPAIR, SCRATCH, TRAINING_MEMBERS, EvaluationResult, PopulationResult
from . import figures, tables
from .verdicts import write_verdicts

_REFERENCES = (MEMBERS, PAIRS, SCRATCH)  # populations in the curves, next to samples and their matched noise


def render_report(
    title: str,
    zoos: Mapping[str, pd.DataFrame],
    layers: Sequence[str],
    evaluation: EvaluationResult,
    provenance: Mapping[str, str],
) -> str:
    """Render a page that opens offline.

    Args:
        title: heading of the page.
        zoos: config -> table of its states (model_id, epoch, test_acc).
        layers: names of the layers, in the order of the layout.
        evaluation: the measured values.
        provenance: the last section of the page: recipe, versions and so on.
    """
    populations, epochs = evaluation.populations, evaluation.protocol.finetune_epochs
    questions = ("zero-shot", "fine-tuning", "transfer", "changed", "ensembles")
    transfer = {"transfer": evaluation.transfer, "changed": evaluation.changed}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["table"] = _format_html
    template = environment.from_string((files("hyperrep.report") / "report.html.j2").read_text())
    return template.render(
        title=title,
        verdicts=write_verdicts(evaluation),
        judgments=tables.judgment_table(populations, evaluation.judgments),
        populations=tables.accuracy_table(populations, epochs),
        novelty=tables.novelty_table(populations),
        accounting=tables.accounting_table(populations, epochs, evaluation.offset),
        offset=evaluation.offset,
        transfer={kind: tables.transfer_table(places, epochs) for kind, places in transfer.items() if places},
        ensembles=tables.ensemble_table(populations) if _has_ensembles(populations) else None,
        tests={question: _select_tests(evaluation, question) for question in questions},
        descriptions={population.name: population.description for population in populations},
        probes=tables.probe_table(evaluation.probes),
        probe_notes=tables.describe_probes(evaluation.probes),
        figures={name: _make_data_url(png) for name, png in _plot_all(zoos, layers, evaluation).items()},
        provenance=provenance,
    )


def _plot_all(
    zoos: Mapping[str, pd.DataFrame], layers: Sequence[str], evaluation: EvaluationResult
) -> dict[str, bytes]:
    populations, last = evaluation.populations, evaluation.protocol.max_finetune_epochs
    shown = [
        p
        for p in populations
        if p.is_sample or p.name in _REFERENCES or p.name.startswith(("noise like ", f"noise{REPAIR} like "))
    ]
    pngs = {
        "zoo": plot_accuracy_over_epochs(zoos),
        "curves": figures.plot_finetuning([p for p in shown if p.curves], last),
        "frontier": figures.plot_frontier(populations),
        "reconstruction": figures.plot_reconstruction(evaluation.reconstruction, layers),
        "probes": figures.plot_probes(evaluation.probes),
        "map": figures.plot_embeddings(evaluation.embeddings),
    }
    for kind, places in (("transfer", evaluation.transfer), ("changed", evaluation.changed)):
        if places:
            pngs[kind] = figures.plot_transfer(places, last)
    if _has_ensembles(populations):
        members = [p for p in populations if p.is_sample or p.name in (*_REFERENCES, TRAINING_MEMBERS)]
        pngs["ensembles"] = figures.plot_ensembles(members)
    return pngs


def _has_ensembles(populations: Sequence[PopulationResult]) -> bool:
    return any(population.ensembles for population in populations)


def _select_tests(evaluation: EvaluationResult, question: str) -> pd.DataFrame:
    return tables.significance_table([row for row in evaluation.tests if row.question == question])


def _format_html(table: pd.DataFrame) -> Markup:
    return Markup(table.to_html(index=False, border=0, escape=True, na_rep=""))


def _make_data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
