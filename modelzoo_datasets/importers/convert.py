"""Conversion of published originals into a zoo folder; a second run resumes the first."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from .._util import one_line, user_cache_folder
from ..architectures import ANY_FORMAT
from ..engines import METRICS, SPARSITY, get_engine
from ..errors import FormatError, MissingImagesError
from ..images import image_dataset_names, load_images
from ..progress import NO_PROGRESS, Progress
from ..recipes import Member
from ..zoo import ZOO_FILE, OutputLock, ZooFolder, ZooInfo, ZooWriter, own_partial_path
from .archives import Source, open_source
from .base import ImportedModel, ImportedState, ModelSource, Overrides, check_source
from .measure import measure_zoo
from .safetensors_folder import SafetensorsFolder
from .small_cnn_zoo import SmallCnnZoo
from .to_recipe import Parents, find_parents, make_recipe, make_zoo_info
from .trial_zoo import MODEL_ZOOS, WEIGHTCLIP, TrialZoo

_log = logging.getLogger(__name__)
_OPENERS: dict[str, Callable[[Source, Overrides, Progress], ModelSource]] = {
    "model-zoos": partial(TrialZoo, dialect=MODEL_ZOOS),
    "small-cnn-zoo": SmallCnnZoo,
    "weightclip": partial(TrialZoo, dialect=WEIGHTCLIP),
    ANY_FORMAT: SafetensorsFolder,
}


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The result of an import."""

    name: str  # RECIPE/CONFIG
    models: int  # number in the folder
    states: int
    added: int  # models that this run wrote
    diverged: int  # models with weights that are not finite; the folder holds and marks them
    lost_states: int  # that could not be read, of models in the folder
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
    measure: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Imported:
    """Convert a published zoo into a zoo folder.

    Models that the folder already holds are kept. You can stop an import at any time: the next call resumes it.

    Args:
        source: Folder, zip or tar archive of the originals.
        out: The zoo folder to write.
        format: "model-zoos", "small-cnn-zoo", "weightclip" or "safetensors".
        images_root: Folder of the image datasets, which are downloaded if missing; the user's cache by default. Where
            they are not to be had, their hash is not recorded.
        overrides: Names, images and architecture to use instead of those in the files of the zoo.
        parent: For sparsified twins, the imported zoo folder of their parents; by default the one beside `out`.
        storage: "states" for one file per state, "packed" for one file per 100 models.
        measure: Measure losses and accuracies that the originals did not record, where the images are there.
        progress: Display of the number of imported states.

    Returns:
        Counts of the imported models and states, and a line for each reason to skip a file.

    Raises:
        FormatError: `source` holds nothing of this format, or no model that can be imported.
        RecipeError: The format, images or architecture is unknown, or a name is not valid.
        FolderInUseError: `out` holds another zoo or other files, or another process is writing to it.

    Example:
        >>> import torch
        >>> from safetensors.torch import save_file
        >>> for i in range(2):
        ...     state_dict = {"weight": torch.full((1, 2), float(i)), "bias": torch.zeros(1)}
        ...     save_file(state_dict, out / f"model-{i}.safetensors")
        >>> _ = (out / "states.csv").write_text("file\\nmodel-0.safetensors\\nmodel-1.safetensors\\n")
        >>> result = import_zoo(out, out.parent / "imported" / "zoo", format="safetensors")
        >>> result.models, result.states
        (2, 2)
    """
    check_source(Path(source), format)
    out, parent = Path(out), None if parent is None else Path(parent)
    root = user_cache_folder("images") if images_root is None else Path(images_root)
    temporary = own_partial_path(out)  # for decompressed files
    with OutputLock(out) as lock:
        try:
            with closing(open_source(Path(source), temporary, progress)) as files:
                originals = _OPENERS[format](files, overrides or Overrides(), progress)
                for reason, (count, first) in files.skipped.reasons.items():
                    originals.skipped.add(f"file that {reason}", first, count)
                result = _import(originals, format, out, lock, root, parent, storage, progress)
            if measure:
                measure_zoo(out, get_engine("auto"), root, progress)
            return result
        finally:
            temporary.unlink(missing_ok=True)


def _import(
    originals: ModelSource,
    format: str,
    out: Path,
    lock: OutputLock,
    images_root: Path,
    parent: Path | None,
    storage: str,
    progress: Progress,
) -> Imported:
    identity = originals.identity
    parents = find_parents(identity, out, parent)
    earlier = _read_earlier(out)
    images_sha256 = _hash_images(identity.images, images_root, earlier)
    indices = [i for i, model in enumerate(originals.models) if _has_parent(originals, model, parents)]
    models = [originals.models[i] for i in indices]
    recipe = make_recipe(identity, originals.architecture, models, parents)
    info = _keep_measured(make_zoo_info(recipe, identity, originals, format, images_sha256, parents), earlier)
    members = recipe.members(identity.config)
    with ZooWriter(out, info.with_storage(storage), lock) as writer:
        before = writer.list_epochs()
        stored = {m.model_id: m for m in _list_finished(writer, members, before)}
        missing = [i for i, m in enumerate(members) if _has_fewer(stored.get(m.model_id), models[i])]
        added = _write_models(
            originals, [indices[i] for i in missing], [members[i] for i in missing], stored, writer, progress
        )
        present = [stored[m.model_id] for m in members if m.model_id in stored]
        if not present:
            raise FormatError(f"no state of {originals.source} can be read: {'; '.join(originals.skipped.lines())}")
        lost_epochs = _list_lost_epochs(members, stored)
        writer.complete(present, lost_epochs=lost_epochs)
    folder = ZooFolder.open(out)
    return Imported(
        name=f"{identity.recipe}/{identity.config}",
        models=len(folder.models),
        states=len(folder.states),
        added=added,
        diverged=int(folder.models["diverged"].sum()),
        lost_states=sum(len(epochs) for epochs in lost_epochs.values()),
        skipped=originals.skipped.lines(),
    )


def _read_earlier(out: Path) -> ZooInfo | None:
    """Return the zoo.json of an earlier import into a folder; the writer reports other files."""
    try:
        return ZooInfo.read(out) if (out / ZOO_FILE).is_file() else None
    except FormatError:
        return None


def _keep_measured(info: ZooInfo, earlier: ZooInfo | None) -> ZooInfo:
    """Return the info with the names of the metrics that an earlier import into the same folder measured."""
    if info.import_info is None or earlier is None or earlier.import_info is None:
        return info
    measured = earlier.import_info.measured_here
    return dataclasses.replace(info, import_info=dataclasses.replace(info.import_info, measured_here=measured))


def _hash_images(images: str, root: Path, earlier: ZooInfo | None) -> str:
    """Return the fingerprint of the images; empty for images that are unknown or not there, as a line says.

    An earlier import into the same folder may have had them.
    """
    if images not in image_dataset_names():
        return ""
    try:
        return load_images(images, root).fingerprint
    except MissingImagesError as error:
        stored = "" if earlier is None else earlier.images_sha256
        if not stored:
            _log.warning(
                "imported without its images, whose hash is not recorded (%s); run the command again when they are "
                "there",
                one_line(error),
            )
        return stored


def _has_parent(originals: ModelSource, model: ImportedModel, parents: Parents | None) -> bool:
    if parents is None or model.parent in parents.ids:
        return True
    originals.skipped.add(f"twin whose parent is not in {parents.folder.path}", model.origin)
    return False


def _list_finished(writer: ZooWriter, members: Sequence[Member], before: Mapping[str, tuple[int, ...]]) -> list[Member]:
    """Return the models that the folder holds, with the epochs of their stored states."""
    result = [_with_epochs(member, before[member.model_id]) for member in members if member.model_id in before]
    whole = writer.find_finished(result)
    return [member for member in result if member.model_id in whole]


def _with_epochs(member: Member, epochs: Sequence[int]) -> Member:
    return member if list(member.epochs) == list(epochs) else dataclasses.replace(member, state_epochs=tuple(epochs))


def _has_fewer(stored: Member | None, model: ImportedModel) -> bool:
    """Return True if the folder has fewer states of a model than were published: the model is read again."""
    return stored is None or len(stored.epochs) < len(model.epochs)


def _write_models(
    originals: ModelSource,
    indices: Sequence[int],
    members: Sequence[Member],
    stored: dict[str, Member],
    writer: ZooWriter,
    progress: Progress,
) -> int:
    """Write models that are missing or have more readable states now; return their number, add them to `stored`."""
    members_by_index = dict(zip(indices, members, strict=True))
    total, added = sum(len(originals.models[i].epochs) for i in indices), 0
    with progress.start(f"importing {originals.source}", total) as task:
        for index, states in originals.read_states(indices):
            member, model = members_by_index[index], originals.models[index]
            before = stored.get(member.model_id)
            if states and (before is None or len(states) > len(before.epochs)):
                stored[member.model_id] = member = _with_epochs(member, [state.epoch for state in states])
                for state in states:
                    _add_state(writer, member, state, model, originals.identity.measured)
                added += 1
            task.update(len(model.epochs))
    return added


def _add_state(
    writer: ZooWriter, member: Member, state: ImportedState, model: ImportedModel, measured: Sequence[str]
) -> None:
    recorded = model.metrics.get(state.epoch, {})
    names = (*METRICS, *measured, *((SPARSITY,) if state.variational is not None else ()))
    metrics = {name: recorded.get(name, float("nan")) for name in names}
    recall = torch.empty(0, dtype=torch.float64)  # no original records the recall per class
    writer.add(member, state.epoch, state.weights, metrics, recall, state.variational)


def _list_lost_epochs(members: Sequence[Member], stored: Mapping[str, Member]) -> dict[str, list[int]]:
    present = [(member, stored[member.model_id]) for member in members if member.model_id in stored]
    lost_epochs = {member.model_id: sorted({*member.epochs} - {*one.epochs}) for member, one in present}
    return {model_id: epochs for model_id, epochs in lost_epochs.items() if epochs}
