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
