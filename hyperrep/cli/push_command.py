"""modelzoo-push: upload a dataset, a hyper-representation or a sampled model to the Hub."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelzoo_datasets import cli, hub
from modelzoo_datasets.cli import Plugin, Quiet, Version, entry_point, new_app, show_progress
from modelzoo_datasets.errors import ArgumentError

# The room imports its modules when a name is used, so that help and errors do not wait for torch.
from .. import release

if TYPE_CHECKING:
    from modelzoo_datasets.hub import PushResult

app = new_app("Push datasets, hyper-representations and sampled models to the Hub.")


@app.command(epilog="Example: modelzoo-push dataset modelzoos/mnist-cnn-s --private")
def command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder from modelzoo-build or modelzoo-hyperrep train or sample.")
    ],
    repo_id: Annotated[
        str, typer.Argument(metavar="ORG/NAME", help="Repo on the Hub; it is created if it does not exist.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Make the repo private if it is created.")] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch to push to; it is created if it does not exist. The default is main.")
    ] = None,
    create_pr: Annotated[
        bool,
        typer.Option(
            "--create-pr",
            help="Open a pull request instead of changing main. Running the command again updates it while it is open.",
        ),
    ] = False,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            help="For a hyper-representation: folder from modelzoo-hyperrep evaluate, whose results its card in the "
            "repo has."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files that would be pushed, without using the network.")
    ] = False,
    plugin: Plugin = None,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Push a folder to a repo on the Hub; files that the repo already has are not sent again.

    Datasets and tables of sampled models become dataset repos; hyper-representations and sampled models become model
    repos. The examples of the card name the repo; the folder itself stays as it is.

    You can stop the command at any time; running it again resumes it. Log in with `hf auth login` or set HF_TOKEN.
    """
    hub.check_destination(repo_id, revision, create_pr)
    kind, _ = hub.identify_folder(folder)
    if not dry_run:
        hub.check_token(repo_id)
    card = None
    if kind.name == "hyper-representation":
        hub.read_manifest(folder, repo_id)  # checks the folder before its card is written
        card = release.render_card(folder, evaluation)
    elif evaluation is not None:
        raise ArgumentError(f"--evaluation is for a hyper-representation, but {folder} is a {kind.name}; omit it")
    if dry_run:
        manifest = hub.read_manifest(folder, repo_id, card)
        _print_rows([{"file": file.path, "bytes": f"{file.size:,}"} for file in manifest.files])
        print(f"nothing was sent: {len(manifest.files):,} files, {manifest.size:,} bytes for {repo_id}")
        return
    with show_progress(quiet) as progress:
        result = hub.push_to_hub(
            folder, repo_id, private=private, revision=revision, create_pr=create_pr, card=card, progress=progress
        )
    _print_result(result)
    print(f"{result.url}: {'pushed' if result.sent or result.deleted else f'is already this {kind.name}'}")


def _print_result(result: "PushResult") -> None:
    """Print the numbers of files that were sent, unchanged and deleted, in one row per folder."""
    rows: dict[str, Counter[str]] = {}
    sizes = [("sent", file.path, file.size) for file in result.sent]
    sizes += [("unchanged", file.path, file.size) for file in result.unchanged]
    sizes += [("deleted", path, 0) for path in result.deleted]
    for change, path, size in sizes:
        row = rows.setdefault(path.rpartition("/")[0] or ".", Counter(bytes=0, sent=0, unchanged=0, deleted=0))
        row[change] += 1
        row["bytes"] += size
    _print_rows([{"folder": name, **row, "bytes": f"{row['bytes']:,}"} for name, row in sorted(rows.items())])


def _print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    import pandas as pd

    cli.print_table(pd.DataFrame(rows))


main = entry_point(app)
