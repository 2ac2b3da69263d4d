"""Checkpoints of sparsified twins: unpruned weights and log sigma²; what was evaluated is what is left of them.

P numbers of a state, Q numbers that are kept beside it.
"""

from collections.abc import Mapping

from torch import Tensor

from ..architectures import Architecture, make_variational, prune_state
from ..engines import variational_layout
from .checkpoints import modules_of, renamed
from .skip_report import Skipped

_LOG_SIGMA2 = ("log_sigma2", "log_sigma2_bias")


def is_twin(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has log sigma² beside its weights."""
    return any(name.rpartition(".")[2] in _LOG_SIGMA2 for name in state)


class TwinReader:
    """Reads the checkpoints of one architecture's twins."""

    def __init__(self, architecture: Architecture) -> None:
        self._layout, self._variational = architecture.layout, variational_layout(architecture.name)
        self._names = {slot.name for slot in self._variational.slots}
        self._module = make_variational(architecture.module("relu"))

    def read(self, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(pruned weights (P,), unpruned weights and log sigma² (Q,)); raises Refused for states of other networks.

        The log sigma² of the biases of linear layers, which the originals have but never set or use, are left out.
        """
        if not is_twin(state):
            raise Skipped("is not of a sparsified twin, as others are")
        plain = {name: t for name, t in state.items() if name.rpartition(".")[2] not in _LOG_SIGMA2}
        place = modules_of(plain, self._layout)
        split = ((*name.rpartition(".")[::2], tensor) for name, tensor in state.items())
        ours = {f"{place.get(module, module)}.{last}": tensor for module, last, tensor in split}
        kept = renamed({name: tensor for name, tensor in ours.items() if name in self._names}, self._variational)
        self._module.load_state_dict(kept)
        return self._layout.pack(prune_state(self._module)), self._variational.pack(kept)
