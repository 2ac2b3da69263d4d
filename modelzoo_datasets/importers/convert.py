"""Make a zoo folder of published originals; run again, it goes on where it stopped."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from .._util import user_cache_folder
from ..architectures import ANY_FORMAT
from ..engines import METRICS, SPARSITY
from ..errors import FormatError
from ..images import image_dataset_names, load_images
from ..progress import NO_PROGRESS, Progress
from ..recipes import Member
from ..zoo import ZooFolder, ZooWriter
from .archives import Source, open_source
from .base import ImportedModel, ImportedState, ModelSource, Overrides
from .formats import check_source
from .model_zoos import open_model_zoos
from .safetensors_folder import SafetensorsFolder
from .small_cnn_zoo import SmallCnnZoo
from .to_recipe import Parents, make_zoo_info, parents_of, recipe_of
from .weightclip import open_weightclip

_OPENERS: dict[str, Callable[[Source, Overrides, Progress], ModelSource]] = {
    "model-zoos": open_model_zoos,
    "small-cnn-zoo": SmallCnnZoo,
    "weightclip": open_weightclip,
    ANY_FORMAT: SafetensorsFolder,
}


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import came to."""

    name: str  # RECIPE/CONFIG
    models: int  # in the folder
    states: int
    added: int  # models that were written now
    diverged: int  # models with weights that are not finite; they are in the folder, and marked
    lacking: int  # states that other models have and theirs have not
    skipped: list[str]  # a line per reason, with its count


def import_zoo(
    source: Path | str,
    out: Path | str,
    *,
    format: str,
    images_root: Path | str | None = None,
    overrides: Overrides | None = None,
    parent: Path | str | None = None,
    storage: str = "states",
    progress: Progress = NO_PROGRESS,
) -> Imported:
    """Convert a published zoo into a zoo folder.

    Models that the folder already holds are kept. You can stop an import at any time: the next call resumes it.

    Args:
        source: Folder, zip or tar archive of the originals.
        out: The zoo folder to write.
        format: "model-zoos", "small-cnn-zoo", "weightclip" or "safetensors".
        images_root: Folder of the image datasets, which are downloaded if missing; the user's cache by default.
        overrides: Names, images and architecture to use instead of those in the files of the zoo.
        parent: For sparsified twins, the imported zoo folder of their parents; by default the one beside `out`.
        storage: "states" for one file per state, "packed" for one file per 100 models.
        progress: Display of the number of imported states.

    Returns:
        Counts of the imported models and states, and a line for each reason to skip a file.

    Raises:
        FormatError: `source` holds nothing of this format, or no model that can be imported.
        RecipeError: The format, images or architecture is unknown, or a name is not valid.
        FolderInUseError: `out` holds another zoo or other files, or another process is writing to it.
        MissingImagesError: The images are neither in `images_root` nor can they be downloaded.
    """
    check_source(Path(source), format)
    out, parent = Path(out), None if parent is None else Path(parent)
    root = user_cache_folder("images") if images_root is None else Path(images_root)
    with closing(open_source(Path(source))) as opened:
        collection = _OPENERS[format](opened, overrides or Overrides(), progress)
        for reason, (count, first) in opened.refused.found.items():
            collection.refusals.add(f"file that {reason}", first, count)
        return _import(collection, format, out, root, parent, storage, progress)


def _import(
    collection: ModelSource,
    format: str,
    out: Path,
    images_root: Path,
    parent: Path | None,
    storage: str,
    progress: Progress,
) -> Imported:
    identity = collection.identity
    parents = parents_of(identity, out, parent)
    images_sha256 = _fingerprint(identity.images, images_root)
    chosen = [i for i, model in enumerate(collection.models) if _has_parent(collection, model, parents)]
    models = [collection.models[i] for i in chosen]
    recipe = recipe_of(identity, collection.architecture, models, parents)
    info = make_zoo_info(recipe, identity, collection, format, images_sha256, parents)
    members = recipe.members(identity.config)
    with ZooWriter(out, info.with_storage(storage)) as writer:
        before = writer.list_epochs()
        kept = {m.model_id: m for m in _finished(writer, members, before)}
        missing = [i for i, m in enumerate(members) if _less(kept.get(m.model_id), models[i])]
        added = _write(collection, [chosen[i] for i in missing], [members[i] for i in missing], kept, writer, progress)
        present = [kept[m.model_id] for m in members if m.model_id in kept]
        if not present:
            raise FormatError(f"no state of {collection.source} can be read: {'; '.join(collection.refusals.lines())}")
        lacking = _lacking(members, kept)
        writer.complete(present, lost_epochs=lacking)
    folder = ZooFolder.open(out)
    return Imported(
        name=f"{identity.recipe}/{identity.config}",
        models=len(folder.models),
        states=len(folder.states),
        added=added,
        diverged=int(folder.models["diverged"].sum()),
        lacking=sum(len(epochs) for epochs in lacking.values()),
        skipped=collection.refusals.lines(),
    )


def _fingerprint(images: str, root: Path) -> str:
    """Of the images that a zoo was trained on; empty where they are not known here, so that none can be compared."""
    return load_images(images, root).fingerprint if images in image_dataset_names() else ""


def _has_parent(collection: ModelSource, model: ImportedModel, parents: Parents | None) -> bool:
    if parents is None or model.parent in parents.ids:
        return True
    collection.refusals.add(f"twin whose parent is not in {parents.folder.path}", model.origin)
    return False


def _finished(writer: ZooWriter, members: Sequence[Member], before: Mapping[str, tuple[int, ...]]) -> list[Member]:
    """The models that the folder holds, with the epochs it has of them."""
    found = [_with(member, before[member.model_id]) for member in members if member.model_id in before]
    whole = writer.find_finished(found)
    return [member for member in found if member.model_id in whole]


def _with(member: Member, epochs: Sequence[int]) -> Member:
    return member if list(member.epochs) == list(epochs) else dataclasses.replace(member, state_epochs=tuple(epochs))


def _less(kept: Member | None, model: ImportedModel) -> bool:
    """Whether the folder has fewer states of a model than were published: those are tried again."""
    return kept is None or len(kept.epochs) < len(model.epochs)


def _write(
    collection: ModelSource,
    chosen: Sequence[int],
    members: Sequence[Member],
    kept: dict[str, Member],
    writer: ZooWriter,
    progress: Progress,
) -> int:
    """Write the models that are not there, or now can be read better; returns how many, and notes them in `kept`."""
    member_of = dict(zip(chosen, members, strict=True))
    total, added = sum(len(collection.models[i].epochs) for i in chosen), 0
    with progress.start(f"importing {collection.source}", total) as task:
        for index, states in collection.states(chosen):
            member, model = member_of[index], collection.models[index]
            before = kept.get(member.model_id)
            if states and (before is None or len(states) > len(before.epochs)):
                kept[member.model_id] = member = _with(member, [state.epoch for state in states])
                for state in states:
                    _add(writer, member, state, model, collection.identity.measured)
                added += 1
            task.update(len(model.epochs))
    return added


def _add(
    writer: ZooWriter, member: Member, state: ImportedState, model: ImportedModel, measured: Sequence[str]
) -> None:
    recorded = model.metrics.get(state.epoch, {})
    names = (*METRICS, *measured, *((SPARSITY,) if state.variational is not None else ()))
    metrics = {name: recorded.get(name, float("nan")) for name in names}
    nothing = torch.empty(0, dtype=torch.float64)  # recall per class was nowhere recorded
    writer.add(member, state.epoch, state.weights, metrics, nothing, state.variational)


def _lacking(members: Sequence[Member], kept: Mapping[str, Member]) -> dict[str, list[int]]:
    lacking = {}
    for member in members:
        if member.model_id in kept:
            there = set(kept[member.model_id].epochs)
            if without := [epoch for epoch in member.epochs if epoch not in there]:
                lacking[member.model_id] = without
    return lacking
