"""A zoo in memory: one tensor, one table, and ways to look at them."""

import dataclasses
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from .._util import one_line
from ..architectures import ACTIVATION_MODULES, Architecture, build_module
from ..errors import FormatError
from ..recipes import Training
from ..weights import Layers, Layout, Tokens


@dataclass(frozen=True, kw_only=True)
class Zoo:
    """N states of one architecture: weights (N, P), one row of `table` per state, and the layout of a vector."""

    weights: Tensor  # (N, P) float32
    table: pd.DataFrame  # model_id, epoch, hyper-parameters, metrics, split
    layout: Layout
    architecture: Architecture
    images: str  # name of the image dataset

    def __len__(self) -> int:
        return len(self.weights)

    def __repr__(self) -> str:
        states, models = f"{len(self):,} states", f"{self.table['model_id'].nunique():,} models"
        return f"Zoo({states} of {models}, {self.architecture.name}: {self.layout.size:,} numbers each)"

    def model(self, i: int, module: nn.Module | None = None) -> nn.Module:
        """State i as a plain module in eval mode.

        Args:
            module: takes the weights, and is returned; needed where the architecture is not registered.

        Raises:
            FormatError: the columns that say how it is built were not loaded or have no value for state i, or the
                module has other tensors.
            RecipeError: there is no module, and none of the architecture is known.
        """
        if module is None:
            return self._built(i)
        try:
            module.load_state_dict(self.layout.unpack(self.weights[i].clone()))
        except RuntimeError as error:
            raise FormatError(
                f"the module is not of the architecture {self.architecture.name!r}: {one_line(error)}"
            ) from error
        return module.eval()

    def _built(self, i: int) -> nn.Module:
        row = self._row(i, ("activation", "dropout"), "a module")
        activation, dropout = (None if pd.isna(row[name]) else row[name] for name in ("activation", "dropout"))
        try:
            return build_module(
                self.architecture, self.weights[i], activation=str(activation), dropout=float(dropout or 0)
            )
        except KeyError as error:
            if activation in ACTIVATION_MODULES:
                raise
            raise FormatError(
                f"the activation of state {i} is {'not recorded' if activation is None else f'{str(activation)!r}'}, "
                f"and {self.architecture.name!r} needs one of {', '.join(ACTIVATION_MODULES)}; "
                "make the module yourself: zoo.model(i, module)"
            ) from error

    def training(self, i: int) -> Training:
        """The hyper-parameters that state i was trained with.

        Raises:
            FormatError: the columns of them were not loaded.
            RecipeError: it was trained elsewhere, in a way that is none of those here.
        """
        names = tuple(field.name for field in dataclasses.fields(Training))
        row = self._row(i, names, "its training")
        values = {name: row[name] for name in names}
        plain = {k: v.item() if hasattr(v, "item") else v for k, v in values.items()}
        return Training(**plain)

    def select(self, chosen: pd.Series) -> "Zoo":
        """The states for which a boolean column, aligned with `table`, is true."""
        keep = torch.from_numpy(chosen.to_numpy(dtype=bool, copy=True))
        table = self.table[chosen.to_numpy()].reset_index(drop=True)
        return dataclasses.replace(self, weights=self.weights[keep], table=table)

    def parameters(self) -> dict[str, Tensor]:
        """The stacked state dict: name -> tensor (N, ...), parameters and buffers, as `torch.func` takes them.

        All of float32 are views of `weights`, and `layout.pack` of one entry of each is the row again, to the bit. All
        models of one activation run at once, with `module = zoo.architecture.module("tanh").eval()`:
        `vmap(functional_call, (None, 0, None))(module, zoo.parameters(), (images,))` -> logits (N, B, classes).
        """
        return self.layout.unpack(self.weights)

    def tokens(self) -> Tokens:
        """One token per neuron (N, T, W), padded, with mask and positions, as SANE has them (2406.09997)."""
        return Tokens.from_weights(self.layout, self.weights)

    def layers(self) -> Layers:
        """Weights and biases layer by layer, as NFN (2302.14040) and DWSNets (2301.12780) take them."""
        return Layers.from_weights(self.layout, self.weights)

    def _row(self, i: int, needed: tuple[str, ...], what: str) -> pd.Series:
        if missing := [name for name in needed if name not in self.table]:
            raise FormatError(f"{what} needs the columns {', '.join(missing)}: name them in load_zoo(columns=...) too")
        return self.table.iloc[i]
