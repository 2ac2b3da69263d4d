"""modelzoo-push: datasets, hyper-representations, sampled models -> the Hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelzoo_datasets.cli import Quiet, Version, entry_point, new_app, show_progress
from modelzoo_datasets.errors import FormatError

if TYPE_CHECKING:
    from modelzoo_datasets.hub import PushResult, UploadManifest

app = new_app("Push datasets, hyper-representations and sampled models to the Hub.")


@app.command(epilog="Example: modelzoo-push dataset modelzoos/mnist-cnn-s --private")
def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What modelzoo-build or modelzoo-hyperrep wrote.")],
    repo_id: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repo; created where there is none.")],
    private: Annotated[bool, typer.Option("--private", help="Create a private repo.")] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch to push to, created where there is none; main.", show_default=False)
    ] = None,
    create_pr: Annotated[
        bool,
        typer.Option(
            "--create-pr",
            help="Open a pull request instead of changing main; run again, go on with it while it is open.",
        ),
    ] = False,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            help="What modelzoo-hyperrep evaluate wrote of this hyper-representation: its card is written anew, with "
            "the measured table.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be pushed; nothing touches the network.")
    ] = False,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """Make a repo of the Hub hold what a folder does; only what it does not hold yet is sent.

    Datasets and tables of sampled models become dataset repos, hyper-representations and sampled models model repos.
    Of a hyper-representation the card is written first, unless its folder has one of your own.

    Stopped at any moment, the same command goes on. The token is the one of `hf auth login` or HF_TOKEN.
    """
    from modelzoo_datasets.hub import check_destination, check_token, identify_folder, push_to_hub, read_manifest

    check_destination(repo_id, revision, create_pr)
    kind, _ = identify_folder(folder)
    if not dry_run:
        check_token(repo_id)
    if kind.name == "hyper-representation":
        read_manifest(folder, repo_id)  # which checks it
        from ..release import write_card

        write_card(folder, repo_id, evaluation)
    elif evaluation is not None:
        raise FormatError(f"--evaluation is of a hyper-representation, {folder} is a {kind.name}; leave it out")
    if dry_run:
        _print_files(read_manifest(folder, repo_id), repo_id)
        return
    with show_progress(quiet) as progress:
        pushed = push_to_hub(
            folder, repo_id, private=private, revision=revision, create_pr=create_pr, progress=progress
        )
    _print_deeds(pushed)
    print(f"{pushed.url}: {'pushed' if pushed.sent or pushed.deleted else f'is already this {kind.name}'}")


def _print_files(manifest: "UploadManifest", repo_id: str) -> None:
    _print([{"file": file.path, "bytes": f"{file.size:,}"} for file in manifest.files])
    print(f"nothing was sent: {len(manifest.files):,} files, {manifest.size:,} bytes for {repo_id}")


def _print_deeds(pushed: "PushResult") -> None:
    """Print what was sent, kept and deleted, in one row per folder."""
    paths = {"sent": [f.path for f in pushed.sent], "unchanged": [f.path for f in pushed.unchanged]}
    sizes = {file.path: file.size for file in (*pushed.sent, *pushed.unchanged)}
    folders = sorted({_folder(path) for path in (*sizes, *pushed.deleted)})
    rows = []
    for folder in folders:
        counts = {
            deed: len([path for path in changed if _folder(path) == folder])
            for deed, changed in {**paths, "deleted": pushed.deleted}.items()
        }
        size = sum(size for path, size in sizes.items() if _folder(path) == folder)
        rows.append({"folder": folder, "bytes": f"{size:,}", **counts})
    _print(rows)


def _folder(path: str) -> str:
    return path.rpartition("/")[0] or "."


def _print(rows: list[dict[str, Any]]) -> None:
    import pandas as pd

    from modelzoo_datasets.cli import print_table

    print_table(pd.DataFrame(rows))


main = entry_point(app)
