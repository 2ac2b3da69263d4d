"""Read a complete zoo folder: facts, tables, and the weights of any state."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from ..architectures import Architecture, get_architecture
from ..errors import FormatError
from ..layout import Layout
from .files import read_json, read_table, read_tensors
from .folder import MODELS_FILE, STATES_FILE, ZOO_FILE, ZOO_FORMAT, state_path


def weights_sha256(weights: Tensor) -> str:
    """SHA-256 of a weight vector (P,) as little-endian float32: the same for the state file and the dataset row."""
    return hashlib.sha256(weights.numpy().astype("<f4").tobytes()).hexdigest()


@dataclass(frozen=True)
class ZooFolder:
    """A zoo on disk, as `modelzoo-generate` leaves it."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> "ZooFolder":
        """Check that this is a complete zoo folder of this format; raises FormatError."""
        if not (path / ZOO_FILE).is_file():
            raise FormatError(f"{path} is no zoo folder: it has no {ZOO_FILE}")
        folder = cls(path)
        if not isinstance(folder.facts, dict):
            raise FormatError(f"{path / ZOO_FILE} is not what modelzoo-generate writes; make the zoo again")
        if folder.facts.get("format") != ZOO_FORMAT:
            raise FormatError(
                f"{path} has zoo format {folder.facts.get('format')!r}, but this release reads "
                f"{ZOO_FORMAT!r}; make it again with modelzoo-generate"
            )
        if not (path / STATES_FILE).is_file():
            raise FormatError(f"{path} is not complete; run its modelzoo-generate command again")
        return folder

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What zoo.json says."""
        facts: dict[str, Any] = read_json(self.path / ZOO_FILE)
        return facts

    @cached_property
    def models(self) -> pd.DataFrame:
        """One row per model: id, seed, split, every hyper-parameter."""
        return read_table(self.path / MODELS_FILE)

    @cached_property
    def states(self) -> pd.DataFrame:
        """One row per state: model, epoch, metrics, sha256."""
        return read_table(self.path / STATES_FILE)

    @property
    def architecture(self) -> Architecture:
        """The architecture of all its models."""
        return get_architecture(self.facts["architecture"])

    @cached_property
    def layout(self) -> Layout:
        """The layout of all its weight vectors."""
        return Layout.from_json(self.facts["layout"])

    def weights(self, model_id: str, epoch: int) -> Tensor:
        """Weights (P,) of one state, read from its file; raises FormatError if it is unreadable or of other shapes."""
        path = state_path(self.path, model_id, epoch)
        try:
            state = read_tensors(path)
        except FormatError as error:
            raise FormatError(f"{error}; run modelzoo-generate again to restore it") from error
        # Dropout shifts the numbers in the keys of the published CNNs, so tensors are matched by sorted layer number.
        ordered = sorted(state, key=_natural)
        names = sorted((slot.name for slot in self.layout.slots), key=_natural)
        if len(ordered) != len(names):
            raise FormatError(f"{path} holds {len(ordered)} tensors, a state of {self.path} has {len(names)}")
        try:
            return self.layout.pack({name: state[key] for name, key in zip(names, ordered, strict=True)})
        except FormatError as error:
            raise FormatError(f"{path} is no state of {self.path}: {error}") from error


def _natural(key: str) -> list[tuple[bool, int, str]]:
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in key.split(".")]
