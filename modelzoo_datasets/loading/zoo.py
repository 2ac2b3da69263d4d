"""A zoo in memory: one tensor, one table, several views of them, and the summary that a zoo prints."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.filesize import decimal
from torch import Tensor, nn

from .._util import one_line
from ..architectures import ACTIVATION_MODULES, Architecture, build_module
from ..errors import ArgumentError, RecipeError
from ..recipes import Training
from ..weights import Layers, Layout, Tokens

_MAX_WIDTH = 100  # characters of the line of columns
_ACCURACIES = ("test_acc", "val_acc", "train_acc")  # the first one that the table has is drawn
_WIDTH, _HEIGHT, _MARGIN = 260, 110, 24  # pixels of the picture, and of the room for its labels
Rows = int | slice | Sequence[int] | Sequence[bool] | np.ndarray | Tensor | pd.Series  # index a zoo


@dataclass(frozen=True, kw_only=True, repr=False)
class Zoo:
    """N states of one architecture: one row of `weights` and one row of `table` per state.

    `zoo[rows]` is a zoo again, for a slice, a boolean mask or an array of indices, as in NumPy. `zoo[i]` of one integer
    is the zoo of that one state, so that every method works on it; `zoo.model(i)` is the state as a module.

    Args:
        weights: (N, P) float32; row i is the vector of state i.
        table: N rows with model_id, epoch, hyper-parameters, metrics and split.
        layout: Where in a vector each tensor of the state dict lies.
        architecture: The architecture of all states.
        images: The name of the image dataset that the models were trained on.
        dataset: The folder or repo that the states were loaded from, if any.
        config: The config of the dataset.
        unrecorded: Hyperparameters that nobody recorded of any state, so that the table has no column of them.

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
    unrecorded: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, rows: Rows) -> "Zoo":
        """Return the zoo of some states: a view of the weights for an int or a slice, a copy otherwise.

        Args:
            rows: An int, a slice, a boolean mask (N,) or a sequence of indices (n,); masks and indices may be lists,
                NumPy arrays, tensors or pandas series, which are read by position.

        Returns:
            The zoo of the n selected states; for an int the zoo of one state.

        Raises:
            IndexError: An index is out of range, or a mask has another length than the zoo.
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
        return _render_text(title, rows)

    def _repr_html_(self) -> str:
        """Return the summary for notebooks: the lines of `repr`, and a picture of accuracy over epochs."""
        title, rows = self._summarize()
        return _render_html(title, rows, _draw_accuracy(self.table))

    def _summarize(self) -> tuple[str, dict[str, str]]:
        title = f"Zoo of {len(self):,} state{'' if len(self) == 1 else 's'}: {_count_states(self.table)}"
        source = f"{self.dataset}, config {self.config}" if self.dataset else "none: made in memory"
        counts = self.table["split"].value_counts(sort=False).items() if "split" in self.table else ()
        splits = ", ".join(f"{name} {count:,}" for name, count in counts)
        return title, {
            "dataset": source,
            "images": f"{self.images}; {splits}" if splits else self.images,
            "network": f"{self.architecture.name}, {self.layout.size:,} numbers in {len(self.layout.slots)} tensors",
            "weights": f"{tuple(self.weights.shape)} {str(self.weights.dtype).removeprefix('torch.')}, "
            + decimal(self.weights.nbytes),
            "columns": _list_columns([str(name) for name in self.table.columns]),
        }

    def model(self, i: int, module: nn.Module | None = None) -> nn.Module:
        """Return state i as a plain module in eval mode, with a copy of its weights.

        If the architecture is not registered, pass your own module: `zoo.model(i, module)`.

        Args:
            i: The index of the state.
            module: The module to load the weights into; built by the registered architecture if None.

        Raises:
            ArgumentError: The columns `activation` and `dropout` were not loaded or have no value for state i, or the
                module has other tensors than the layout.
            RecipeError: The architecture is not registered, and no module was passed.
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
        name = self.architecture.name
        source = Path(self.dataset, "code", f"{name}.py")
        if not self.architecture.has_module and Path(name).name == name and self.dataset and source.is_file():
            raise RecipeError(
                f"architecture {name!r} is not registered here, and no dataset runs code by itself: pass your own "
                f"module, zoo.model(i, module), or read {source} and name it, load_zoo(..., plugin=FILE)"
            )
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
            ArgumentError: Some of their columns were not loaded.
            RecipeError: The model was trained elsewhere, in a way that this package has no hyper-parameters for.
        """
        names = tuple(field.name for field in dataclasses.fields(Training))
        row = self._read_row(i, names, "zoo.hyperparameters(i)")
        values = {name: row[name] for name in names}
        if unknown := [name for name, value in values.items() if pd.isna(value)]:
            raise RecipeError(f"{', '.join(unknown)} of state {i} {'is' if len(unknown) == 1 else 'are'} not recorded")
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
        """Return some values of a state; None for what nobody recorded."""
        if missing := [name for name in columns if name not in self.table and name not in self.unrecorded]:
            raise ArgumentError(
                f"{caller} needs the columns {', '.join(missing)}, which were not loaded; add them to "
                "load_zoo(columns=...)"
            )
        row = self.table.iloc[i]
        return pd.Series({name: row.get(name) for name in columns}, dtype=object)


def _count_states(table: pd.DataFrame) -> str:
    """Return how many models, epochs and states a table has, e.g. `20 models x 3 epochs (0 to 2)`."""
    if not len(table):
        return "no states"
    models, epochs = table["model_id"].nunique(), np.unique(table["epoch"])
    span = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
    at_most = "" if models * len(epochs) == len(table) else "up to "
    return f"{_count(models, 'model')} x {at_most}{_count(len(epochs), 'epoch')} ({span})"


def _list_columns(names: Sequence[str]) -> str:
    """Return the names in one line; if they are too many, the first ones and the number of the others."""
    line, shown = "", 0
    for name in names:
        longer = f"{line}, {name}" if line else name
        if len(longer) > _MAX_WIDTH:
            break
        line, shown = longer, shown + 1
    return line if shown == len(names) else f"{line} and {len(names) - shown} more"


def _render_text(title: str, rows: Mapping[str, str]) -> str:
    """Return a title and one indented line per row."""
    width = max(map(len, rows))
    return "\n".join([title, *(f"  {name:{width}}  {value}" for name, value in rows.items())])


def _render_html(title: str, rows: Mapping[str, str], picture: str) -> str:
    """Return the rows as an HTML table with a picture below."""
    cells = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f"<div><strong>{escape(title)}</strong><table>{cells}</table>{picture}</div>"


def _draw_accuracy(table: pd.DataFrame) -> str:
    """Draw the accuracy over the epochs as an SVG: the median over the models, in a band from 10 to 90 percent.

    Returns:
        The SVG element; an empty string if the table has fewer than two epochs or no accuracies.
    """
    name = next((name for name in _ACCURACIES if name in table), None)
    if name is None:
        return ""
    values = pd.to_numeric(table[name], errors="coerce")
    groups = values.groupby(table["epoch"])
    low, median, high = (groups.quantile(q).dropna() for q in (0.1, 0.5, 0.9))
    if len(median) < 2:
        return ""
    epochs, bottom, top = median.index.to_numpy(), float(low.min()), float(high.max())
    x = _MARGIN + (epochs - epochs[0]) / (epochs[-1] - epochs[0]) * (_WIDTH - 2 * _MARGIN)

    def to_points(curve: pd.Series) -> list[str]:
        y = _HEIGHT - _MARGIN - (curve.to_numpy() - bottom) / ((top - bottom) or 1) * (_HEIGHT - 2 * _MARGIN)
        return [f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True)]

    band = " ".join(to_points(low) + to_points(high)[::-1])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{name} over epochs" font-size="10" font-family="sans-serif">'
        f'<polygon points="{band}" fill="#4c78a8" fill-opacity="0.25"/>'
        f'<polyline points="{" ".join(to_points(median))}" fill="none" stroke="#4c78a8" stroke-width="1.5"/>'
        f'<text x="{_MARGIN}" y="{_MARGIN - 8}">{name}, median and 10 to 90 %: {bottom:.3g} to {top:.3g}</text>'
        f'<text x="{_MARGIN}" y="{_HEIGHT - 8}">epoch {epochs[0]}</text>'
        f'<text x="{_WIDTH - _MARGIN}" y="{_HEIGHT - 8}" text-anchor="end">{epochs[-1]}</text></svg>'
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
