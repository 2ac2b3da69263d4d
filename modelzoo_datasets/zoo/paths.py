"""Names and paths inside a zoo folder.

zoo.json                                       recipe as resolved, layout, images, engine, versions
models.parquet  states.parquet                 one row per model, one row per state
statistics.json  pairs.parquet                 what the population is like, computed when it is complete
states/<model_id>/epoch-000.safetensors        one plain state dict per state, or, with the packed layout,
packed/models-00001-00100.safetensors          the same tensors of all states of 100 models of the grid, stacked
variational/<model_id>/epoch-000.safetensors   of sparsified twins: unpruned weights and log sigma² (packed: as above)
progress/<model_id>.json                       rows of finished models, while the zoo is not complete
progress/<model_id>.safetensors                their states, while a packed zoo is not complete
"""

from pathlib import Path

from ..errors import FolderInUseError, FormatError

ZOO_FORMAT = "modelzoo-zoo-2"
DATASET_FORMAT = "modelzoo-dataset-3"  # of what is built from zoo folders
ZOO_FILE = "zoo.json"
MODELS_FILE = "models.parquet"
STATES_FILE = "states.parquet"
STATISTICS_FILE = "statistics.json"
PAIRS_FILE = "pairs.parquet"
PROGRESS = "progress"
PACKED = "packed"
VARIATIONAL = "variational"
STORAGES = ("states", "packed")
_MODELS_PER_FILE = 100  # at most, in a packed file
_PACK_BYTES = 1_000_000_000  # of a packed file, if that is more than one model


def require_zoo_file(folder: Path, kind: str) -> None:
    """Check that a folder has a zoo.json, without reading it.

    Args:
        folder: The folder of a zoo or of a dataset.
        kind: What the folder should be, for the message: "zoo folder".

    Raises:
        FormatError: The folder or the file does not exist.
    """
    if not (folder / ZOO_FILE).is_file():
        raise FormatError(f"{folder} is no {kind}: it has no {ZOO_FILE}")


def check_zoo_folder(folder: Path) -> None:
    """Check that a zoo can be written to a folder, as far as the names of its files tell.

    Raises:
        FolderInUseError: There is a file of this name, or the folder contains files but no zoo.json.
    """
    partial = f".{ZOO_FILE}.partial"  # left by a process that was killed while it began the folder
    is_free = not folder.exists() or (folder.is_dir() and all(path.name == partial for path in folder.iterdir()))
    if not is_free and not (folder / ZOO_FILE).is_file():
        raise FolderInUseError(f"{folder} is not empty and no zoo; choose another --out")


def state_path(folder: Path, model_id: str, epoch: int, kind: str = "states") -> Path:
    """Where the state of one model after one epoch lies; kind `variational` for what a twin has beside it."""
    return folder / kind / model_id / state_name(epoch)


def state_name(epoch: int) -> str:
    """The file of the state of a model after one epoch."""
    return f"epoch-{epoch:03d}.safetensors"


def models_per_file(numbers: int, epochs: int) -> int:
    """How many models a packed file is for, by the numbers in a state and the epochs of the longest training.

    It depends on the recipe alone, so that file names do not depend on which models there are; zoo.json keeps it.
    """
    return max(1, min(_MODELS_PER_FILE, _PACK_BYTES // (4 * numbers * (epochs + 1))))


def pack_path(folder: Path, index: int, per_file: int) -> Path:
    """The packed file of the model at this place of the grid, from 1."""
    first = (index - 1) // per_file * per_file + 1
    return folder / PACKED / f"models-{first:05d}-{first + per_file - 1:05d}.safetensors"


def single_pack_path(folder: Path, model_id: str) -> Path:
    """Where the states of one model lie until the zoo is complete."""
    return folder / PROGRESS / f"{model_id}.safetensors"
