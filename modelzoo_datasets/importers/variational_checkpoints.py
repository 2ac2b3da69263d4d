"""Checkpoints of sparsified twins: unpruned weights and log sigma², from which the pruned weights follow.

P numbers of a state, Q numbers stored beside it.
"""

from collections.abc import Mapping

from torch import Tensor

from ..architectures import Architecture, make_variational, prune_state
from ..engines import variational_layout
from .checkpoints import match_modules, rename_tensors
from .skip_report import Skipped

_LOG_SIGMA2 = ("log_sigma2", "log_sigma2_bias")


def is_twin(state: Mapping[str, Tensor]) -> bool:
    """Return True for a state dict with log sigma² beside its weights."""
    return any(name.rpartition(".")[2] in _LOG_SIGMA2 for name in state)


class TwinReader:
    """A reader of the checkpoints of sparsified twins of one architecture."""

    def __init__(self, architecture: Architecture) -> None:
        self._layout, self._variational = architecture.layout, variational_layout(architecture.name)
        self._names = {slot.name for slot in self._variational.slots}
        self._module = make_variational(architecture.module("relu"))

    def read(self, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return pruned weights (P,), and unpruned weights with log sigma² (Q,); raises Skipped for other networks.

        The originals have log sigma² of the biases of linear layers but never set or use it, so it is left out.
        """
        if not is_twin(state):
            raise Skipped("is not of a sparsified twin, as others are")
        plain = {name: t for name, t in state.items() if name.rpartition(".")[2] not in _LOG_SIGMA2}
        target = match_modules(plain, self._layout)
        split = ((*name.rpartition(".")[::2], tensor) for name, tensor in state.items())
        tensors = {f"{target.get(module, module)}.{last}": tensor for module, last, tensor in split}
        result = rename_tensors(
            {name: tensor for name, tensor in tensors.items() if name in self._names}, self._variational
        )
        self._module.load_state_dict(result)
        return self._layout.pack(prune_state(self._module)), self._variational.pack(result)
