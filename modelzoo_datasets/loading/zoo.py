"""A zoo in memory: one tensor, one table, and several views of them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from rich.filesize import decimal
from torch import Tensor, nn

from .._util import one_line
from ..architectures import ACTIVATION_MODULES, Architecture, build_module
from ..errors import ArgumentError
from ..recipes import Training
from ..weights import Layers, Layout, Tokens
from .zoo_summary import count_states, draw_accuracy, list_columns, render_html, render_text

Rows = int | slice | Sequence[int] | Sequence[bool] | np.ndarray | Tensor | pd.Series  # index a zoo


@dataclass(frozen=True, kw_only=True, repr=False)
class Zoo:
    """N states of one architecture: one row of `weights` and one row of `table` per state.

    `zoo[rows]` is a zoo again, for a slice, a boolean mask or an array of indices, as in NumPy. `zoo[i]` of one integer
    is the zoo of that one state, so that every method works on it; `zoo.model(i)` is the state as a module.

    Args:
        weights: (N, P) float32; row i is the vector of state i.
        table: N rows with model_id, epoch, hyper-parameters, metrics and split.
        layout: where in a vector each tensor of the state dict lies.
        architecture: the architecture of all states.
        images: the name of the image dataset that the models were trained on.
        dataset: the folder or repo that the states were loaded from, if any.
        config: the config of the dataset.

    Example:
        >>> zoo = load_zoo(dataset)
        >>> good = zoo[zoo.table["test_acc"] >= zoo.table["test_acc"].median()]
        >>> 0 < len(good) <= len(zoo)
        True
        >>> zoo[0].weights.shape == (1, zoo.layout.size)
        True
        >>> zoo.model(0).training
        False
    """

    weights: Tensor  # (N, P) float32
    table: pd.DataFrame
    layout: Layout
    architecture: Architecture
    images: str
    dataset: str = ""
    config: str = ""

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, rows: Rows) -> "Zoo":
        """Return the zoo of some states: a view of the weights for an int or a slice, a copy otherwise.

        Args:
            rows: an int, a slice, a boolean mask (N,) or a sequence of indices (n,); masks and indices may be lists,
                NumPy arrays, tensors or pandas series, which are read by position.

        Returns:
            The zoo of the n selected states; for an int the zoo of one state.

        Raises:
            IndexError: an index is out of range, or a mask has another length than the zoo.
        """
        if isinstance(rows, int | np.integer):
            i = int(self._to_indices([int(rows)])[0])
            rows = slice(i, i + 1)
        if isinstance(rows, slice) and (rows.step or 1) > 0:
            return self._take(self.weights[rows], self.table.iloc[rows])
        indices = self._to_indices(rows)
        return self._take(self.weights[torch.from_numpy(indices)], self.table.iloc[indices])

    def _take(self, weights: Tensor, table: pd.DataFrame) -> "Zoo":
        return dataclasses.replace(self, weights=weights, table=table.reset_index(drop=True))

    def _to_indices(self, rows: slice | Sequence[int] | Sequence[bool] | np.ndarray | Tensor | pd.Series) -> np.ndarray:
        if isinstance(rows, slice):  # with a negative step, which tensors do not take
            return np.arange(len(self))[rows].copy()
        array = np.asarray(list(rows) if isinstance(rows, pd.Series | range) else rows)
        if array.size == 0 and array.ndim == 1:
            return np.empty(0, dtype=np.int64)
        if array.ndim != 1 or array.dtype.kind not in "biu":
            raise IndexError(f"rows must be an int, a slice, a boolean mask or a sequence of ints; got {rows!r}")
        if array.dtype.kind == "b":
            if len(array) != len(self):
                raise IndexError(f"a mask must have one value for each of the {len(self)} states; got {len(array)}")
            return np.flatnonzero(array)
        if array.min() < -len(self) or array.max() >= len(self):
            worst = array.max() if array.max() >= len(self) else array.min()
            raise IndexError(f"index {worst} is out of range for a zoo of {len(self)} states")
        return array.astype(np.int64) % len(self)

    def select(self, rows: Rows) -> "Zoo":
        """Return the zoo of some states, like `zoo[rows]`, under the name that `datasets` has for it."""
        return self[rows]

    def __repr__(self) -> str:
        title, rows = self._summarize()
        return render_text(title, rows)

    def _repr_html_(self) -> str:
        """Return the summary for notebooks: the lines of `repr`, and a picture of accuracy over epochs."""
        title, rows = self._summarize()
        return render_html(title, rows, draw_accuracy(self.table))

    def _summarize(self) -> tuple[str, dict[str, str]]:
        title = f"Zoo of {len(self):,} state{'' if len(self) == 1 else 's'}: {count_states(self.table)}"
        source = f"{self.dataset}, config {self.config}" if self.dataset else "none: made in memory"
        counts = self.table["split"].value_counts(sort=False).items() if "split" in self.table else ()
        splits = ", ".join(f"{name} {count:,}" for name, count in counts)
        return title, {
            "dataset": source,
            "images": f"{self.images}; {splits}" if splits else self.images,
            "network": f"{self.architecture.name}, {self.layout.size:,} numbers in {len(self.layout.slots)} tensors",
            "weights": f"{tuple(self.weights.shape)} {str(self.weights.dtype).removeprefix('torch.')}, "
            + decimal(self.weights.nbytes),
            "columns": list_columns([str(name) for name in self.table.columns]),
        }

    def model(self, i: int, module: nn.Module | None = None) -> nn.Module:
        """Return state i as a plain module in eval mode, with a copy of its weights.

        If the architecture is not registered, pass your own module: `zoo.model(i, module)`.

        Args:
            i: the index of the state.
            module: the module to load the weights into; built by the registered architecture if None.

        Raises:
            ArgumentError: the columns `activation` and `dropout` were not loaded or have no value for state i, or the
                module has other tensors than the layout.
            RecipeError: the architecture is not registered, and no module was passed.
        """
        if module is None:
            return self._build_module(i)
        try:
            module.load_state_dict(self.layout.unpack(self.weights[i].clone()))
        except RuntimeError as error:
            raise ArgumentError(
                f"the module must have the tensors of architecture {self.architecture.name!r}; {one_line(error)}"
            ) from error
        return module.eval()

    def _build_module(self, i: int) -> nn.Module:
        row = self._read_row(i, ("activation", "dropout"), "zoo.model(i)")
        activation, dropout = (None if pd.isna(row[name]) else row[name] for name in ("activation", "dropout"))
        try:
            return build_module(
                self.architecture, self.weights[i], activation=str(activation), dropout=float(dropout or 0)
            )
        except KeyError as error:
            if activation in ACTIVATION_MODULES:
                raise
            raise ArgumentError(
                f"the activation of state {i} is {'not recorded' if activation is None else f'{str(activation)!r}'}, "
                f"but {self.architecture.name!r} needs one of {', '.join(ACTIVATION_MODULES)}; "
                "pass your own module: zoo.model(i, module)"
            ) from error

    def hyperparameters(self, i: int) -> Training:
        """Return the hyper-parameters that state i was trained with.

        Raises:
            ArgumentError: some of their columns were not loaded.
            RecipeError: the model was trained elsewhere, in a way that this package has no hyper-parameters for.
        """
        names = tuple(field.name for field in dataclasses.fields(Training))
        row = self._read_row(i, names, "zoo.hyperparameters(i)")
        values = {name: row[name] for name in names}
        plain = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
        return Training(**plain)

    def parameters(self) -> dict[str, Tensor]:
        """Return the stacked state dict, name -> tensor (N, ...), parameters and buffers, as `torch.func` takes it.

        Tensors of float32 are views of `weights`; `layout.pack` of entry i of each tensor is row i again, bit for bit.
        All models of one activation run at once, with `module = zoo.architecture.module("tanh").eval()`:
        `vmap(functional_call, (None, 0, None))(module, zoo.parameters(), (images,))` returns logits (N, B, classes).
        """
        return self.layout.unpack(self.weights)

    def tokens(self) -> Tokens:
        """Return one token per neuron (N, T, W), padded, with mask and positions, as SANE takes them (2406.09997)."""
        return Tokens.from_weights(self.layout, self.weights)

    def layers(self) -> Layers:
        """Return weights and biases layer by layer, as NFN (2302.14040) and DWSNets (2301.12780) take them."""
        return Layers.from_weights(self.layout, self.weights)

    def _read_row(self, i: int, columns: tuple[str, ...], caller: str) -> pd.Series:
        if missing := [name for name in columns if name not in self.table]:
            raise ArgumentError(
                f"{caller} needs the columns {', '.join(missing)}, which were not loaded; add them to "
                "load_zoo(columns=...)"
            )
        return self.table.iloc[i]
