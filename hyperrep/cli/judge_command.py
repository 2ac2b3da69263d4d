"""modelzoo-judge: networks of any origin, judged beside the models of a zoo."""

from pathlib import Path
from typing import Annotated

import typer

import hyperrep
from modelzoo_datasets import cli, engines
from modelzoo_datasets.cli import (
    DEFAULT_IMAGES_ROOT,
    Engine,
    ImagesRoot,
    Plugin,
    Quiet,
    Threads,
    Version,
    entry_point,
    new_app,
    show_progress,
)
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.plugins import load_function

# Rooms import their modules when a name is used, so that help and errors do not wait for torch.
from .. import report
from ..recipe_toml import read_protocol

app = new_app("Judge networks of any origin beside the models of a zoo.")


@app.command(epilog="Example: modelzoo-judge samples --against demo/dataset/seed --out judgment")
def command(
    samples: Annotated[
        Path,
        typer.Argument(
            metavar="SAMPLES",
            help="Folder of *.safetensors, *.pt or *.pth files, one state dict each, or one file of many models.",
        ),
    ],
    against: Annotated[
        str,
        typer.Option(
            "--against", metavar="DATASET[/CONFIG]", help="Zoo to judge beside: a folder, or a repo such as ORG/NAME."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write report.html, evaluation.json and summary.md to.")
    ] = None,
    protocol: Annotated[
        Path | None, typer.Option(help="TOML file with an [evaluation] section: the questions of the judgment.")
    ] = None,
    name: Annotated[
        str, typer.Option(help="Name of the samples in the report; say in it how they were selected.")
    ] = "samples",
    score: Annotated[
        str | None,
        typer.Option(
            metavar="FILE:FUNCTION",
            help="Python function of a module that returns its score, higher is better, for networks without images.",
        ),
    ] = None,
    gradients: Annotated[
        int,
        typer.Option(
            min=0,
            help="Image gradients that the sampler was learned with: zoo members are fine-tuned with as many.",
        ),
    ] = 0,
    engine: Engine = "auto",
    threads: Threads = None,
    images_root: ImagesRoot = DEFAULT_IMAGES_ROOT,
    plugin: Plugin = None,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Judge networks of any origin beside the models of a zoo: are they copies, noise, averages, or new?

    SAMPLES are networks of the architecture of the zoo. They are compared with its training models, with its test
    models, and with nulls at equal novelty. You can stop the command at any time; running it again resumes it.
    """
    if not samples.exists():
        raise FormatError(f"there is no folder or file {samples}; pass the networks to judge")
    questions = None if protocol is None else read_protocol(protocol)
    function = None if score is None else load_function(score)
    runner = engines.get_engine(engine, threads)
    with show_progress(quiet) as progress:
        result = hyperrep.judge(
            samples,
            against,
            out=out,
            protocol=questions,
            engine=runner,
            images_root=images_root,
            score=function,
            name=name,
            gradients=gradients,
            progress=progress,
        )
    unit = report.choose_unit(result)
    print(report.describe_judgment(name, result.judgments[name], unit))
    cli.print_table(report.judgment_table(result.populations, result.judgments, unit), "samples and the strongest null")
    if function is not None:
        print("scores know of no images: no error overlap, no fine-tuning, no ensembles, no REPAIR")
    if out is not None:
        print(f"open {out / 'report.html'}")


main = entry_point(app)
