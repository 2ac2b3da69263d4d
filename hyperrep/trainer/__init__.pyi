from .checkpoints import TENSORS as TENSORS
from .functional_loss import Queries as Queries
from .initialize import new_representation as new_representation
from .loop import learn as learn
from .loop import reconstruction_r2 as reconstruction_r2
from .metrics_log import EpochMetrics as EpochMetrics
from .metrics_log import recording as recording
