"""Names and paths in a zoo folder.

zoo.json                                       the recipe with all defaults, layout, images, engine, versions
models.parquet  states.parquet                 one row per model, one row per state
statistics.json  pairs.parquet                 statistics of the population, written when it is complete
states/<model_id>/epoch-000.safetensors        one plain state dict per state; or, in a packed zoo,
packed/models-00001-00100.safetensors          the same tensors of all states of 100 models of the grid, stacked
variational/<model_id>/epoch-000.safetensors   unpruned weights and log sigma² of a sparsified twin (packed: as above)
progress/<model_id>.json                       rows of finished models, until the zoo is complete
progress/<model_id>.safetensors                their states, until a packed zoo is complete
"""

from pathlib import Path

from ..errors import FolderInUseError, FormatError
from .atomic_io import is_partial
from .lock import LOCK_FILE

ZOO_FORMAT = "modelzoo-zoo-2"
DATASET_FORMAT = "modelzoo-dataset-4"
OLDER_DATASET_FORMATS = ("modelzoo-dataset-1", "modelzoo-dataset-2", "modelzoo-dataset-3")
ZOO_FILE = "zoo.json"
MODELS_FILE = "models.parquet"
STATES_FILE = "states.parquet"
STATISTICS_FILE = "statistics.json"
PAIRS_FILE = "pairs.parquet"
PROGRESS = "progress"
PACKED = "packed"
VARIATIONAL = "variational"
STORAGES = ("states", "packed")
_MAX_MODELS_PER_FILE = 100
_MAX_PACK_BYTES = 1_000_000_000  # unless one model alone needs more


def require_zoo_file(folder: Path, *, or_dataset: bool = False) -> None:
    """Check that a folder has a zoo.json, without reading it.

    Args:
        folder: The folder of a zoo.
        or_dataset: Whether a dataset folder is as good.

    Raises:
        FormatError: The folder or the file does not exist.
    """
    if (folder / ZOO_FILE).is_file():
        return
    kind = "zoo folder or dataset folder" if or_dataset else "zoo folder"
    makers = (
        "modelzoo-generate, modelzoo-import or modelzoo-build" if or_dataset else "modelzoo-generate or modelzoo-import"
    )
    reason = f"it has no {ZOO_FILE}" if folder.is_dir() else "it is a file" if folder.exists() else "it does not exist"
    raise FormatError(f"{folder} is not a {kind}: {reason}; pass a folder from {makers}")


def check_zoo_folder(folder: Path) -> None:
    """Check that a zoo can be written to a folder, as far as the names of its files tell.

    Raises:
        FolderInUseError: There is a file of this name, or the folder contains files but no zoo.json.
    """
    if not is_free(folder) and not (folder / ZOO_FILE).is_file():
        raise FolderInUseError(f"{folder} is not empty and no zoo; choose another --out")


def is_free(folder: Path) -> bool:
    """Tell whether there is nothing at a path, or a folder that is empty but for files of its writer."""
    if folder.is_dir():
        return all(path.name == LOCK_FILE or is_partial(path) for path in folder.iterdir())
    return not folder.exists()


def state_path(folder: Path, model_id: str, epoch: int, kind: str = "states") -> Path:
    """Return the file of the state of a model after an epoch.

    Args:
        folder: The zoo folder.
        model_id: The model.
        epoch: The epoch.
        kind: `variational` for the file that a sparsified twin has beside the state.
    """
    return folder / kind / model_id / state_name(epoch)


def state_name(epoch: int) -> str:
    """Return the name of the file of a state."""
    return f"epoch-{epoch:03d}.safetensors"


def models_per_file(numbers: int, epochs: int) -> int:
    """Return the number of places of the grid that share a packed file; zoo.json keeps it.

    It depends on the recipe alone, so that file names do not depend on the models that were trained.

    Args:
        numbers: Numbers in a state, variational ones included.
        epochs: Epochs of the longest training.
    """
    return max(1, min(_MAX_MODELS_PER_FILE, _MAX_PACK_BYTES // (4 * numbers * (epochs + 1))))


def pack_path(folder: Path, index: int, per_file: int) -> Path:
    """Return the packed file of the model at a place of the grid, counted from 1."""
    first = (index - 1) // per_file * per_file + 1
    return folder / PACKED / f"models-{first:05d}-{first + per_file - 1:05d}.safetensors"


def single_pack_path(folder: Path, model_id: str) -> Path:
    """Return the file of the states of one model until the zoo is complete."""
    return folder / PROGRESS / f"{model_id}.safetensors"
