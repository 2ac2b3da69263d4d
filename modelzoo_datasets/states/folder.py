"""Names and paths inside a zoo folder.

zoo.json                                  recipe as resolved, layout, images, engine, versions
models.parquet  states.parquet            one row per model, one row per state
states/<model_id>/epoch-000.safetensors   one plain state dict per state
progress/<model_id>.json                  rows of finished models, while the zoo is not complete
"""

from pathlib import Path

ZOO_FORMAT = "modelzoo-zoo-1"
DATASET_FORMAT = "modelzoo-dataset-1"  # of what is built from zoo folders
ZOO_FILE = "zoo.json"
MODELS_FILE = "models.parquet"
STATES_FILE = "states.parquet"
PROGRESS = "progress"


def state_path(folder: Path, model_id: str, epoch: int) -> Path:
    """Where the state of one model after one epoch lies."""
    return folder / "states" / model_id / f"epoch-{epoch:03d}.safetensors"
