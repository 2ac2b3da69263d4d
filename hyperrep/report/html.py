"""The report: one HTML file with its figures inside, rendered from measured values alone.

An evaluation of a hyper-representation and a judgment of anybody's networks have the same page; sections of questions
that were not asked are left out.
"""

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from modelzoo_datasets._util import format_versions, versions
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.plots import plot_accuracy_over_epochs
from modelzoo_datasets.zoo import write_bytes

from ..evaluation import MEMBERS, PAIRS, REPAIR, SCRATCH, TRAINING_MEMBERS, EvaluationResult, Places, PopulationResult
from ..json_record import describe_record
from ..zoo_values import read_numbers
from . import figures, probe_figures, tables
from .probe_tables import describe_probes, probe_table
from .verdicts import describe_judgment, write_verdicts

_REFERENCES = (MEMBERS, PAIRS, SCRATCH)  # populations in the curves, next to samples and their matched noise


def write_report(
    path: Path, title: str, zoos: Mapping[str, Zoo], result: EvaluationResult, source: Mapping[str, str]
) -> None:
    """Write report.html: an evaluation, and the zoos.

    Args:
        path: file to write.
        title: heading of the page.
        zoos: config -> its states.
        result: the evaluation.
        source: where the samples are from, for the provenance.
    """
    first = next(iter(zoos.values()))
    provenance = {
        "images": first.images,
        "architecture": f"{first.architecture.name}, {first.layout.size:,} parameters",
        "models": ", ".join(f"{zoo.table['model_id'].nunique()} in {config}" for config, zoo in zoos.items()),
        "states": ", ".join(f"{len(zoo)} in {config}" for config, zoo in zoos.items()),
        **source,
        "protocol": describe_record(result.protocol),
        "versions": format_versions(versions()),
    }
    page = render_report(
        title,
        {name: zoo.table.assign(test_acc=read_numbers(zoo.table, "test_acc").numpy()) for name, zoo in zoos.items()},
        ["×".join(map(str, layer.weight.shape)) for layer in first.layout.layers],
        result,
        provenance,
    )
    write_bytes(path, page.encode())


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
    questions = ("zero-shot", "fine-tuning", "equal work", "transfer", "changed", "ensembles")
    transfer = {"transfer": evaluation.transfer, "changed": evaluation.changed}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["table"] = _format_html
    template = environment.from_string((files("hyperrep.report") / "report.html.j2").read_text())
    unit = tables.choose_unit(evaluation)
    sentences = [describe_judgment(*item, unit) for item in evaluation.judgments.items()]
    summary = sentences[0] if len(sentences) == 1 else None
    return template.render(
        title=title,
        summary=summary,
        verdicts=[sentence for sentence in write_verdicts(evaluation) if sentence != summary],
        score=evaluation.score,
        is_representation=bool(evaluation.reconstruction),
        judgments=tables.judgment_table(populations, evaluation.judgments, unit),
        populations=tables.accuracy_table(populations, () if evaluation.score else epochs, unit),
        novelty=tables.novelty_table(populations, unit),
        accounting=tables.accounting_table(populations, epochs, evaluation.offset),
        offset=evaluation.offset,
        work=evaluation.equal_work,
        equal_work=evaluation.equal_work and tables.equal_work_table(evaluation.equal_work, populations, epochs),
        control=tables.control_table(evaluation.control) if evaluation.control else None,
        transfer={kind: tables.transfer_table(places, epochs) for kind, places in transfer.items() if places},
        ensembles=tables.ensemble_table(populations) if _has_ensembles(populations) else None,
        tests={question: _select_tests(evaluation, question) for question in questions},
        descriptions={population.name: _describe_population(population) for population in populations},
        sources=_describe_sources(evaluation.transfer),
        probes=probe_table(evaluation.probes),
        probe_notes=describe_probes(evaluation.probes),
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
        "frontier": figures.plot_frontier(populations, evaluation.score),
    }
    if any(p.curves and p.name != SCRATCH for p in shown):
        pngs["curves"] = figures.plot_finetuning([p for p in shown if p.curves], last)
    if evaluation.reconstruction:
        pngs["reconstruction"] = figures.plot_reconstruction(evaluation.reconstruction, layers)
    if evaluation.probes:
        pngs["probes"] = probe_figures.plot_probes(evaluation.probes)
    if evaluation.embeddings:
        pngs["map"] = figures.plot_embeddings(evaluation.embeddings)
    for kind, places in (("transfer", evaluation.transfer), ("changed", evaluation.changed)):
        if places:
            pngs[kind] = figures.plot_transfer(places, last)
    if evaluation.equal_work is not None:
        pngs["equal_work"] = figures.plot_equal_work(evaluation.equal_work, populations)
    if evaluation.control:
        pngs["control"] = figures.plot_control(evaluation.control)
    if _has_ensembles(populations):
        members = [p for p in populations if p.is_sample or p.name in (*_REFERENCES, TRAINING_MEMBERS)]
        pngs["ensembles"] = figures.plot_ensembles(members)
    return pngs


def _describe_population(population: PopulationResult) -> str:
    """Describe a population, and say what its evaluation cost."""
    seconds = population.cpu_seconds
    return population.description + ("" if seconds is None else f" ({seconds:.1f} CPU seconds)")


def _describe_sources(places: Places) -> list[str]:
    """Say for each target which hyper-parameters samples are fine-tuned with; earlier releases did not note them."""
    lines = []
    for place, results in places.items():
        result = next(iter(results.values()))
        numbers = ", ".join(f"{name} {value}" for name, value in result.hyperparameters.items())
        if result.source:
            lines.append(f"{place}: {numbers}, from {result.source}")
    return lines


def _has_ensembles(populations: Sequence[PopulationResult]) -> bool:
    return any(population.ensembles for population in populations)


def _select_tests(evaluation: EvaluationResult, question: str) -> pd.DataFrame:
    rows = [row for row in evaluation.tests if row.question == question]
    return tables.significance_table(rows, tables.choose_unit(evaluation))


def _format_html(table: pd.DataFrame) -> Markup:
    return Markup(table.to_html(index=False, border=0, escape=True, na_rep=""))


def _make_data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
